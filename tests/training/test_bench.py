import json
from pathlib import Path

import pytest

from tasks.bench import update
from tests.training.conftest import FACTS, REFERENCE


def test_the_update_bench_learns_in_sequence_and_prints_a_line_each(
    tmp_path: Path, objects: Path, base: str, capfd: pytest.CaptureFixture[str]
) -> None:
    files = {"facts": FACTS, "reference": REFERENCE}
    for name, rows in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = f"--facts {tmp_path}/facts --reference {tmp_path}/reference --store {objects}"
    status = update.main(
        [*command.split(), "--parent", base, "--updates", "2", "--recipe", '{"epochs": 1}']
    )
    first, second = capfd.readouterr().out.splitlines()
    assert status == 0
    assert "forward 0/2" in first
    assert "older 0->0/0" in first
    assert "older 0->0/4" in second
    assert "MB" in second
