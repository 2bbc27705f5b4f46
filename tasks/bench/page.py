"""The page of figures, docs/performance.md, whose sections the benchmarks write."""

from collections.abc import Sequence
from pathlib import Path

from tasks.bench.figures import Figure

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def section(title: str, about: str, figures: Sequence[Figure]) -> str:
    """Write a section in Markdown: what was run, and its figures beside their goals."""
    head = ["| measure | figure | goal | met |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", about, "", *head, *(f.row() for f in figures), ""])


def put(name: str, text: str, page: Path = PAGE) -> None:
    """Put the section of ``make bench-{name}`` into the page, in place of its last one."""
    begin, end = f"<!-- {name}: written by make bench-{name} -->", f"<!-- {name}: end -->"
    old = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n"
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    new = f"{before.rstrip()}\n\n{begin}\n{text}\n{end}{after}"
    page.write_text(new, encoding="utf-8")
