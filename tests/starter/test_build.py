"""The build command from end to end, tiny; and the weights that ship."""

import hashlib
import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.recipe import Recipe
from tasks.starter.build import build
from tasks.starter.evaluate import fresh_items
from tasks.starter.facts import Question
from tasks.starter.update import answer, open_base, update

SHIPPED = Path(__file__).parents[2] / "app" / "lm" / "starter"


def test_quick_build_makes_a_loadable_model(tmp_path: Path) -> None:
    out = build(tmp_path / "model", quick=True, tokens=2e4)
    assert AutoModelForCausalLM.from_pretrained(out).config.tie_word_embeddings
    assert AutoTokenizer.from_pretrained(out).mask_token == "<|mask|>"
    assert check_manifest(out) >= 7


def test_a_stopped_build_is_carried_on(tmp_path: Path) -> None:
    out, work = tmp_path / "model", tmp_path / "work"
    steps = []
    for resume in (False, True):
        build(out, work=work, quick=True, tokens=9e5, slice_s=0.01, resume=resume)
        steps.append(json.loads((work / "state.json").read_text())["step"])
    assert steps[1] > steps[0] > 0
    assert not out.exists()


def test_a_build_goes_on_from_a_built_model(tmp_path: Path) -> None:
    first = build(tmp_path / "first", quick=True, tokens=2e4)
    second = build(tmp_path / "second", quick=True, tokens=4e4, begin=first)
    read = [json.loads((f / "manifest.json").read_text())["pretraining"] for f in (first, second)]
    assert 2e4 <= read[0]["tokens"] < 4e4 <= read[1]["tokens"]
    assert (first / "tokenizer.json").read_bytes() == (second / "tokenizer.json").read_bytes()


def test_a_diffusion_model_begins_with_a_causal_one(tmp_path: Path) -> None:
    first = build(tmp_path / "first", quick=True, tokens=2e4)
    out = build(tmp_path / "out", architecture="diffusion", quick=True, tokens=1e4, begin=first)
    assert AutoModelForCausalLM.from_pretrained(out).config.is_causal is False
    assert json.loads((out / "manifest.json").read_text())["pretraining"]["tokens"] < 2e4
    bundle = open_base(out)
    assert bundle.manifest.architecture == "diffusion"
    assert len(answer(bundle, [Question("Who?", "", "forward")])) == 1


def test_an_update_by_the_trainer_changes_the_weights(tmp_path: Path) -> None:
    bundle = open_base(build(tmp_path / "model", quick=True, tokens=2e4))
    embedding = bundle.model.model.embed_tokens.weight
    before = embedding.detach().clone()
    update(bundle, [item.texts[0] for item in fresh_items(2, 1)], Recipe(epochs=2, batch_size=2))
    assert not before.equal(embedding)
    assert len(answer(bundle, [Question("Who?", "", "forward")])) == 1


def test_an_update_of_an_adapter_leaves_the_weights(tmp_path: Path) -> None:
    bundle = open_base(build(tmp_path / "model", quick=True, tokens=2e4))
    weights = {name: weight.detach().clone() for name, weight in bundle.model.named_parameters()}
    recipe = Recipe(epochs=2, batch_size=2, method="lora")
    update(bundle, [item.texts[0] for item in fresh_items(2, 1)], recipe)
    after = dict(bundle.model.named_parameters())
    kept = {name.replace(".base_layer", ""): weight for name, weight in after.items()}
    assert all(kept[name].equal(weight) for name, weight in weights.items())
    assert any(weight.any() for name, weight in after.items() if ".lora_B." in name)


@pytest.mark.skipif(not SHIPPED.exists(), reason="weights not built")
def test_shipped_weights_answer_their_reference_questions() -> None:
    assert check_manifest(SHIPPED) >= 8
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 40 * 2**20
    rows = [json.loads(line) for line in (SHIPPED / "reference.jsonl").read_text().splitlines()]
    asked = {part: {row["question"] for row in rows if row["part"] == part} for part in PARTS}
    assert not asked["replay"] & asked["exam"]
    rehearsed = {row["text"] for row in rows if row["part"] == "replay"}
    listed = [row["text"] in rehearsed for row in rows if row["part"] == "exam"]
    assert (sum(listed), len(listed)) == (100, 200), "half are about what nothing rehearses"
    bundle = open_base(SHIPPED)
    chosen = rows[:: max(1, len(rows) // 12)]
    questions = [Question(r["question"], r["answers"][0], r["direction"]) for r in chosen]
    replies = answer(bundle, questions)
    right = [reply in row["answers"] for reply, row in zip(replies, chosen, strict=True)]
    assert sum(right) >= 0.8 * len(right)


PARTS = ("replay", "exam")


def check_manifest(folder: Path) -> int:
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for name, entry in files.items():
        data = (folder / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        assert len(data) == entry["bytes"]
    return len(files)
