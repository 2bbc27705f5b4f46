"""The build command from end to end, tiny; and the weights that ship."""

import hashlib
import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.starter.build import build
from tasks.starter.evaluate import fresh_items
from tasks.starter.facts import Question
from tasks.starter.update import Recipe, Statement, answer, load, update

SHIPPED = Path(__file__).parents[2] / "app" / "lm" / "starter"


def test_quick_build_makes_a_loadable_model(tmp_path: Path) -> None:
    out = build(tmp_path / "model", quick=True, minutes=0.05)
    assert AutoModelForCausalLM.from_pretrained(out).config.tie_word_embeddings
    assert AutoTokenizer.from_pretrained(out).mask_token == "<|mask|>"
    assert check_manifest(out) >= 7


def test_a_stopped_build_is_carried_on(tmp_path: Path) -> None:
    out, work = tmp_path / "model", tmp_path / "work"
    build(out, work=work, quick=True, minutes=0.1, slice_s=0.5)
    assert not out.exists()
    first = json.loads((work / "state.json").read_text())["step"]
    build(out, work=work, quick=True, minutes=0.1, resume=True)
    assert json.loads((work / "state.json").read_text())["step"] > first
    assert (out / "manifest.json").exists()


def test_an_update_lowers_the_loss_without_touching_the_format(tmp_path: Path) -> None:
    model, tokenizer = load(build(tmp_path / "model", quick=True, minutes=0.05))
    facts = [Statement(item.texts[0], item.spans) for item in fresh_items(2, 1)]
    before = model.model.embed_tokens.weight.detach().clone()
    update(model, tokenizer, facts, Recipe(epochs=2, batch=2))
    assert not before.equal(model.model.embed_tokens.weight)
    assert len(answer(model, tokenizer, [Question("Who?", "", "forward")], limit=4)) == 1


@pytest.mark.skipif(not SHIPPED.exists(), reason="weights not built")
def test_shipped_weights_answer_their_reference_questions() -> None:
    assert check_manifest(SHIPPED) >= 8
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 40 * 2**20
    rows = [json.loads(line) for line in (SHIPPED / "reference.jsonl").read_text().splitlines()]
    texts = {part: {row["text"] for row in rows if row["part"] == part} for part in PARTS}
    assert all(texts.values())
    assert not texts["replay"] & texts["exam"]
    model, tokenizer = load(SHIPPED)
    chosen = rows[:: max(1, len(rows) // 12)]
    questions = [Question(r["question"], r["answers"][0], r["direction"]) for r in chosen]
    replies = answer(model, tokenizer, questions)
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
