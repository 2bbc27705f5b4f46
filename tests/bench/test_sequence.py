"""The sequence experiment: each arm leaves out its defence, and nothing else."""

import json
import random
import sys
from pathlib import Path

import pytest

from app.cli.console import Stop
from app.cli.main import main
from app.recipe import Recipe
from tasks.bench import sequence
from tasks.bench.cells import Ground
from tasks.bench.chain import Chain
from tasks.bench.course import Course
from tasks.bench.sequence import ARMS, recipe_of
from tasks.bench.subjects import Subject
from tasks.training.job import Reference
from tests.bench.test_knowledge import facts_file
from tests.lm.models import make_tiny_model
from tests.training.conftest import REFERENCE

SUBJECTS = [Subject(str(n), f"Fact {n} is true.", (), (), ()) for n in range(4)]


def reference_file(folder: Path) -> Path:
    path = folder / "reference.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in REFERENCE))
    return path


def test_every_arm_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = make_tiny_model(tmp_path / "model", "llama"), tmp_path / "out"
    reference = reference_file(tmp_path)
    rows = facts_file(tmp_path).read_text().splitlines()
    (tmp_path / "four.jsonl").write_text("\n".join([*rows, rows[0]]))
    options = f"--quick --model {model} --facts {tmp_path}/four.jsonl --reference {reference}"
    command = ["almanac", "bench", "sequence", *options.split(), "--folder", str(out)]
    for arms in ("no KL", ",".join(ARMS)):  # the second time one of them is done
        monkeypatch.setattr(sys, "argv", [*command, "--arms", arms])
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code
    report = (out / "sequence.md").read_text()
    assert all(f"| {arm} |" in report for arm in ARMS)
    cells = [json.loads(line) for line in (out / "sequence.jsonl").read_text().splitlines()[1:]]
    assert [len(cell["first"]) for cell in cells] == [4] * len(ARMS)
    assert [cell["asked"] for cell in cells] == [1] * len(ARMS)
    assert len({cell["kl"] for cell in cells}) > 1, "the arms were trained differently"
    for cell in cells:
        assert [point["updates"] for point in cell["points"]] == [1, 2]
        assert cell["points"][-1]["proven"] == sum(cell["last"]) / 4
        assert all(point["seconds"] > 0 for point in cell["points"])
    assert report.count("| all defences | 2 |") == 1, "the curve's last line"


def test_what_becomes_of_an_adapter(tmp_path: Path) -> None:
    given = {**sequence.QUICK, "facts": facts_file(tmp_path), "updates": 3, "size": 1}
    given |= {"model": str(make_tiny_model(tmp_path / "model", "llama"))}
    given |= {"reference": reference_file(tmp_path)}
    given |= {"arms": ("all defences", "fresh adapters", "retrained")}
    with pytest.raises(Stop, match="lora"):
        sequence.plan_of(given)
    given["recipe"] = {"epochs": 1, "lr": 1e-2, "method": "lora", "trained": "all"}
    sequence.run(sequence.plan_of(given), tmp_path / "out")
    lines = (tmp_path / "out" / "sequence.jsonl").read_text().splitlines()[1:]
    cells = [json.loads(line) for line in lines]
    assert [len(cell["first"]) for cell in cells] == [3, 3, 3]
    assert len({cell["kl"] for cell in cells}) == 3, "the arms were trained differently"


@pytest.mark.parametrize("again", [True, False])
def test_what_is_lost_is_taught_again(monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    known = {"0", "1"}
    monkeypatch.setattr(
        "tasks.bench.course.proven", lambda _, asked: [int(s.id in known) for s in asked]
    )
    course = Course(random.Random(0), again)
    assert course.plan(SUBJECTS[:2]) == (SUBJECTS[:2], [])
    assert course.note(None) == [1, 1]
    known.remove("0")
    taught, replayed = course.plan(SUBJECTS[2:3])
    assert (taught, {subject.id for subject in replayed}) == (SUBJECTS[2:3], {"0", "1"})
    marks = dict(zip((subject.id for subject in course.asked), course.note(None), strict=True))
    assert marks == {"0": 0, "1": 1, "2": 0}
    for waiting in ({"0", "2"}, {"0", "2"}, {"0"}):  # the new one had its first try before
        taught, _ = course.plan([])
        assert {subject.id for subject in taught} == (waiting if again else set())
        course.note(None)
    assert course.plan([])[0] == [], "after three tries it is given up"


@pytest.mark.parametrize(
    ("arm", "older", "reference"),
    [
        ("all defences", True, True),
        ("no replay", False, True),
        ("not again", True, True),
        ("no base", True, True),
        ("no reference", True, False),
        ("no KL", True, True),
        ("none", False, False),
    ],
)
def test_an_arm_leaves_out_what_it_says(
    tmp_path: Path, arm: str, older: bool, reference: bool
) -> None:
    rows = [Reference.model_validate(row) for row in REFERENCE]
    chain = Chain(Ground(tmp_path, "0" * 64, rows), arm, Recipe(replay_share=0.4), size=2)
    lessons = chain._lessons(SUBJECTS[2:], SUBJECTS[:2])
    replayed = [fact.text for fact in lessons.older]
    assert replayed == ([subject.text for subject in SUBJECTS[:2]] if older else [])
    assert (REFERENCE[1]["text"] in lessons.statements) is bool(lessons.answered) is reference
    assert REFERENCE[0]["question"] not in {question for question, _ in lessons.answered}
    assert [fact.text for fact in lessons.facts] == [s.text for s in SUBJECTS[2:]]
    assert chain._recipe(lessons, 2).replay_share == (0.4 if older or reference else 0)


@pytest.mark.parametrize(
    ("arm", "anchored", "protected"),
    [
        ("all defences", True, True),
        ("no KL", False, True),
        ("no protection", True, False),
        ("none", False, False),
    ],
)
def test_an_arm_trains_by_what_it_leaves_of_the_recipe(
    arm: str, anchored: bool, protected: bool
) -> None:
    recipe = recipe_of(arm, Recipe())
    assert (recipe.kl_weight > 0, recipe.protection > 0) == (anchored, protected)
    assert recipe.lr == Recipe().lr
