"""The SFT experiment: nothing is taught that is asked, and demasking pays for what it reads."""

import json
import sys
from pathlib import Path

import pytest

from app.cli.console import Stop
from app.cli.main import main
from app.recipe import Recipe
from tasks.bench.sft import ARMS, LONGER, Plan, objective_of, problems
from tasks.training.objectives.masked import Masked
from tests.lm.models import make_tiny_model


def examples_file(folder: Path, count: int) -> Path:
    path = folder / "examples.jsonl"
    rows = [{"prompt": f"What is {n} and 1?", "response": f"It is {n + 1}."} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_arm_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = make_tiny_model(tmp_path / "model", "llama"), examples_file(tmp_path, 12)
    out = tmp_path / "out"
    options = f"--quick --model {model} --examples {file} --folder {out}"
    monkeypatch.setattr(sys, "argv", ["almanac", "bench", "sft", *options.split()])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code
    report = (out / "sft.md").read_text()
    printed = capsys.readouterr().out
    assert printed == f"{report}{out / 'sft.md'}\n{out / 'sft.csv'}\n"
    assert all(f"| {arm} |" in report for arm in ARMS)
    cells = [json.loads(line) for line in (out / "sft.jsonl").read_text().splitlines()[1:]]
    steps = {cell["key"]: cell["steps"] for cell in cells}
    assert len(cells) == len(ARMS) * 3
    assert steps["report plain 0"] == steps["report demasking 0"]
    assert steps[f"report {LONGER} 0"] > steps["report plain 0"]
    # As many FLOPs as epochs can be rounded to.
    spent = {cell["key"]: cell["flops"] for cell in cells}
    longer, epoch = spent[f"report {LONGER} 0"], spent["report plain 0"]
    assert abs(longer - spent["report demasking 0"]) <= epoch / 2 + 0.05 * longer
    assert all(len(cell["marks"]) in (2, 4) for cell in cells)


def test_problems_are_parted(tmp_path: Path) -> None:
    parts = problems(Plan(taught=30, asked=10))
    assert [len(part) for part in parts] == [30, 5, 10]
    prompts = [fact.prompt for part in parts for fact in part]
    assert len(set(prompts)) == 45
    assert problems(Plan(taught=30, asked=10)) == parts
    for fact in parts[2]:
        (probe,) = fact.probes
        assert probe.question == fact.prompt
        assert fact.text.endswith(probe.answers[0])
        assert probe.answers[0].startswith("The answer is ")
    with pytest.raises(Stop, match="holds 3 different prompts; 45 are needed"):
        problems(Plan(examples=examples_file(tmp_path, 3), taught=30, asked=10))


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "examples.jsonl"
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(Stop, match="line 1"):
        problems(Plan(examples=path))


def test_the_arms_differ_in_what_the_prompt_shows() -> None:
    recipe = Recipe(infill_share=0.3)
    demasking, mixed = objective_of("demasking", recipe), objective_of("mixed", recipe)
    assert isinstance(demasking, Masked)
    assert isinstance(mixed, Masked)
    assert (demasking.infill_share, mixed.infill_share) == (0, 0.3)
    assert objective_of("plain", recipe).name == objective_of(LONGER, recipe).name == "causal"
