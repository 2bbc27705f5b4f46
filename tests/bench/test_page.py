"""The page of figures: a section is replaced, and what stands around it stays."""

from pathlib import Path

from tasks.bench.figures import Figure
from tasks.bench.page import put, section


def test_a_section_takes_the_place_of_its_last_one(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Performance\n\nWords before.\n")
    put("serving", section("Serving", "Once.", [Figure("asked", "1 ms", "<= 2 ms", True)]), page)
    put("training", section("Training", "Here.", [Figure("taught", "2 s")]), page)
    page.write_text(page.read_text() + "\nWords after.\n")
    put("serving", section("Serving", "Again.", [Figure("asked", "3 ms", "<= 2 ms", False)]), page)
    text = page.read_text()
    assert "Once." not in text
    assert "| asked | 3 ms | <= 2 ms | **no** |" in text
    places = [text.index(part) for part in ("before", "Again", "| taught | 2 s |", "after")]
    assert places == sorted(places)
    assert text.count("make bench-serving") == 1
