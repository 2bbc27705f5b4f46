"""The knowledge experiment: it can be interrupted, and what it reports it wasn't tuned on."""

import json
import random
import sys
from pathlib import Path

import pytest

from app.cli.console import Stop
from app.cli.main import main
from app.lm.chat import encode_text
from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.bench import knowledge
from tasks.bench.arms import Arm, budget
from tasks.bench.experiment import Ledger, interval
from tasks.bench.knowledge import choose
from tasks.bench.subjects import invent, is_reversed, read_subjects, split
from tasks.training.job import Probe
from tests.lm.models import make_tiny_model
from tests.training.conftest import FACTS, _one_thread, base, bundle, objects, qwen_base

__all__ = ["_one_thread", "base", "bundle", "objects", "qwen_base"]
MASKED = "masked/none/full"


def facts_file(folder: Path) -> Path:
    path = folder / "facts.jsonl"
    rows = [
        {
            "text": fact["text"],
            "probes": fact["probes"],
            "metadata": {"paraphrases": [f"Look: {fact['text']}"], "permuted": []},
        }
        for fact in FACTS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bench(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["almanac", "bench", "knowledge", "--quick", *options])
    try:
        main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_an_experiment_reports_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_model(tmp_path / "model", "llama")
    out = tmp_path / "out"
    options = ["--model", str(model), "--facts", str(facts_file(tmp_path)), "--folder", str(out)]
    assert bench(monkeypatch, *options) == 0
    report = (out / "knowledge.md").read_text()
    for arm in (MASKED, "causal/none/full", "random/none/full", "copy/none/full"):
        assert f"| {arm} |" in report
    assert "permuted" not in report.split("Settings")[0].split("|", 1)[1], "no fact has such texts"
    assert (out / "curves.png").stat().st_size > 1000
    assert len((out / "knowledge.csv").read_text().splitlines()) == 5

    lines = (out / "knowledge.jsonl").read_text().splitlines()
    cells = [json.loads(line) for line in lines[1:]]
    assert len(cells) == 4 * (1 + 2)
    assert all(cell["curve"][-1]["epoch"] == cell["epochs"] for cell in cells)
    assert cells[0]["epochs"] > 1

    # Killed while it wrote its last line: that cell alone is done again.
    torn = "\n".join(lines[:-1]) + "\n" + lines[-1][:40]
    (out / "knowledge.jsonl").write_text(torn)
    assert bench(monkeypatch, *options) == 0
    again = (out / "knowledge.jsonl").read_text().splitlines()
    assert again[:-1] == lines[:-1]
    assert json.loads(again[-1])["marks"] == cells[-1]["marks"]

    assert bench(monkeypatch, *options, "--recipe", '{"weight_decay": 0.1}') == 1
    assert "another experiment's results" in capsys.readouterr().err
    assert (out / "knowledge.jsonl").read_text().splitlines() == again


def test_diffusion_teaches_the_sibling(tmp_path: Path) -> None:
    given = {**knowledge.QUICK, "facts": facts_file(tmp_path), "paraphrases": ("none",)}
    given |= {"model": make_tiny_model(tmp_path / "model", "llama"), "objectives": ("diffusion",)}
    with pytest.raises(Stop, match="sibling"):
        knowledge.plan_of({**given, "model": str(given["model"])})
    given |= {"model": str(given["model"]), "sibling": str(given["model"])}
    with pytest.raises(Stop, match="no masked-diffusion model"):
        knowledge.run(knowledge.plan_of(given), tmp_path / "out")
    sibling = make_tiny_model(tmp_path / "sibling", "llama", diffusion=True)
    given |= {"sibling": str(sibling)}
    report, *_ = knowledge.run(knowledge.plan_of(given), tmp_path / "out")
    for arm in ("diffusion/none/full", "copy/none/full"):
        assert f"| {arm} |" in report.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "{"], "--recipe is no JSON"),
        (["--recipe", '{"epoch": 3}'], "epoch: Extra inputs"),
        (["--rates", "[]"], "--rates is no JSON object"),
    ],
)
def test_what_cannot_be_done_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    assert bench(monkeypatch, *options, "--folder", str(tmp_path)) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [({"text": "A."}, "line 1: it has no probes"), ({"probes": []}, "line 1: text: ")],
)
def test_a_fact_that_cannot_be_examined_is_named(
    tmp_path: Path, row: dict[str, object], message: str
) -> None:
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(Stop, match=message):
        read_subjects(path)


def test_no_fact_is_both_tuned_and_reported_on(tmp_path: Path) -> None:
    invent(tmp_path / "facts.jsonl", 9, seed=1)
    subjects = read_subjects(tmp_path / "facts.jsonl")
    tuned, reported = split(subjects)
    assert (len(tuned), len(reported)) == (3, 6)
    assert not {s.id for s in tuned} & {s.id for s in reported}
    assert {p.direction for s in subjects for p in s.probes} == {"forward", "backward"}
    assert any(s.permuted for s in subjects)
    assert not any(set(s.same) & set(s.permuted) for s in subjects)


@pytest.mark.parametrize(
    ("question", "answer", "turned"),
    [
        ("Who keeps the light at Lund?", "Mira Tovan", True),
        ("What does Mira Tovan keep?", "the light at Lund", False),
        ("What does Mira Tovan keep?", "the light at Tarn", False),
        ("Why?", "Mira Tovan", False),
    ],
)
def test_a_question_is_reversed_where_the_answer_came_first(
    question: str, answer: str, turned: bool
) -> None:
    probe = Probe(question=question, answers=[answer], direction="forward")
    assert is_reversed("Mira Tovan keeps the light at Lund.", probe) is turned


def test_paraphrases_are_shown_in_place_of_the_statement_not_beside_it(tmp_path: Path) -> None:
    subjects = read_subjects(facts_file(tmp_path))
    same = Arm("causal", "same")
    texts = [fact.text for fact in same.taught(subjects)]
    assert texts[:2] == [FACTS[0]["text"], f"Look: {FACTS[0]['text']}"]
    assert (budget(Arm("causal"), subjects, 40), budget(same, subjects, 40)) == (40, 20)


def point(epoch: int, forward: float, backward: float) -> dict[str, float]:
    recall = {"forward_rouge1": forward, "backward_rouge1": backward}
    return {"epoch": epoch, "forward": forward, "backward": backward, **recall}


def test_a_plan_without_methods_is_none() -> None:
    with pytest.raises(Stop, match="methods: name one"):
        knowledge.plan_of({"methods": ()})


def test_the_best_point_of_all_curves_is_chosen() -> None:
    low = {"lr": 0.1, "curve": [point(5, 0.2, 0.2), point(10, 0.9, 0.4)]}
    high = {"lr": 0.2, "curve": [point(5, 0.6, 0.6), point(10, 0.6, 0.6)]}
    assert choose([low, high]) == (0.1, 10)
    assert choose([{"lr": 0.2, "curve": [point(5, 1, 1), point(10, 1, 1)]}]) == (0.2, 5)
    with pytest.raises(Stop, match="diverged"):
        choose([{"lr": 9.0, "curve": []}])


def test_an_interval_is_as_wide_as_seeds_and_facts_differ() -> None:
    assert interval([[1.0] * 10] * 3) == (1, 1, 1)
    middle, low, high = interval([[0.0, 1.0] * 50] * 3)
    # Of 100 independent marks the standard error is .05.
    assert middle == 0.5
    assert (low, high) == (pytest.approx(0.4, abs=0.02), pytest.approx(0.6, abs=0.02))
    middle, low, high = interval([[0.0] * 10, [1.0] * 10])
    assert (middle, low, high) == (0.5, 0, 1)


def test_a_ledger_keeps_what_is_whole(tmp_path: Path) -> None:
    path, runs = tmp_path / "cells.jsonl", []

    def run() -> dict[str, int]:
        runs.append(1)
        return {"value": len(runs)}

    for _ in range(2):
        assert Ledger(path, {"a": (1, 2)}).get_or_run("one", run) == {"key": "one", "value": 1}
    path.write_text(path.read_text() + '{"key": "two", "val')
    assert Ledger(path, {"a": (1, 2)}).get_or_run("two", run) == {"key": "two", "value": 2}
    with pytest.raises(Stop, match="another experiment"):
        Ledger(path, {"a": (1, 3)})
    assert "two" in Ledger(path, {"a": (1, 2), "seeds": 4, "arms": ("all",)}), "cells name theirs"


def test_variants_change_one_thing_of_the_masks(bundle: Bundle) -> None:
    text = FACTS[0]["text"]
    tokens, noise, hidden = (
        Arm(name).make_objective(Recipe()).examples([text], bundle, random.Random(0))[0]
        for name in ("tokens", "noise", "hidden")
    )
    mask = bundle.manifest.mask_id
    pairs = list(zip(tokens.input_ids, noise.input_ids, strict=True))
    assert [a for a, b in pairs if a != b] == [mask] * tokens.input_ids.count(mask)
    assert (noise.labels, hidden.input_ids) == (tokens.labels, tokens.input_ids)
    asked = [label for label, hide in zip(tokens.labels, tokens.recalled, strict=True) if hide]
    assert [label for label in hidden.labels if label >= 0] == asked


def test_controls_take_away_what_the_prompt_says(bundle: Bundle) -> None:
    text = FACTS[0]["text"]
    ids = encode_text(bundle.tokenizer, text)
    made = {
        name: Arm(name).make_objective(Recipe()).examples([text], bundle, random.Random(0))[0]
        for name in ("random", "copy", "tokens")
    }
    start = {name: example.labels.index(ids[0]) for name, example in made.items()}
    assert all(made[n].input_ids[start[n] :][: len(ids)] == ids for n in made)
    prompts = {name: example.input_ids[: start[name]] for name, example in made.items()}
    mask = bundle.manifest.mask_id
    assert str(ids)[1:-1] in str(prompts["copy"])
    assert (mask in prompts["copy"], mask in prompts["tokens"]) == (False, True)
    shown = zip(prompts["copy"], prompts["random"], strict=True)
    assert sum(copied != drawn for copied, drawn in shown) >= len(ids) - 1, "one may be drawn again"
