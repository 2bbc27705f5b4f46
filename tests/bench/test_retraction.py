"""The retraction experiment: the rebuilt model never saw what was retracted."""

import json
import sys
from pathlib import Path

import pytest

from app.cli.console import Stop
from app.cli.main import main
from tasks.bench.retraction import plan_of, write_report
from tests.bench.test_knowledge import facts_file
from tests.lm.models import make_tiny_model

SETTINGS = {"model": "0" * 64, "taught": 3, "retracted": 1, "control": 1, "seeds": 1, "recipe": {}}


def test_what_is_asked_about_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = make_tiny_model(tmp_path / "model", "llama"), tmp_path / "out"
    options = f"--quick --model {model} --facts {facts_file(tmp_path)} --folder {out}"
    monkeypatch.setattr(sys, "argv", ["almanac", "bench", "retraction", *options.split()])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    report = (out / "retraction.md").read_text()
    for kind in ("retracted, before", "retracted, after the rebuild", "never taught"):
        assert f"| {kind}" in report
    (cell,) = [json.loads(row) for row in (out / "retraction.jsonl").read_text().splitlines()[1:]]
    assert len(cell["proven_before"]) == len(cell["proven_after"]) == 1
    assert len(cell["proven_again"]) == 1
    for kind in ("before", "after", "control", "again"):
        assert [len(cell[kind][way]["passed"]) for way in ("forward", "backward")] == [1, 1]


def test_what_is_kept_counts_only_what_was_proven(tmp_path: Path) -> None:
    answered = {way: {"passed": [1.0, 0.0]} for way in ("forward", "backward")}
    cell = dict.fromkeys(("before", "after", "again", "control"), answered)
    cell |= {"proven_before": [1, 1, 0, 1], "proven_after": [1, 0, 1, 1]}
    cell["proven_again"] = [1, 1, 1, 1]
    report = write_report(tmp_path, SETTINGS, [cell])[0].read_text()
    assert "Of 3 other facts that were proven before,\n66.7% still were" in report
    assert "and 100.0% after one more update" in report


def test_something_has_to_be_left() -> None:
    with pytest.raises(Stop, match="less than what is taught"):
        plan_of({"taught": 5, "retracted": 5})
