"""Writes a finished run as a folder in Hugging Face form, with its reference set and manifest."""

import hashlib
import json
import shutil
from pathlib import Path
from random import Random

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from app.lm.loading import Bundle
from tasks.starter.facts import Question
from tasks.starter.items import Item
from tasks.starter.stream import permanent_items
from tasks.starter.tokenizer import END, PAD
from tasks.starter.update import answer, open_base

EXAMS = 200
CARD = Path(__file__).parent / "data" / "card.md"


def export(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    permanents: int,
    read: dict[str, int],
) -> None:
    """Write weights (bf16), tokenizer, reference set, card and manifest, then swap them in.

    `read` says how many steps and tokens the pretraining had.
    """
    staging = out.with_name(out.name + ".new")
    shutil.rmtree(staging, ignore_errors=True)
    model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        do_sample=False,
        max_new_tokens=64,
    )
    model.save_pretrained(staging)
    tokenizer.save_pretrained(staging)
    # Asked of exactly what ships, as the service loads it.
    rows = reference(open_base(staging), permanents)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (staging / "reference.jsonl").write_text(lines)
    if getattr(model.config, "is_causal", True):  # the card describes what ships
        shutil.copy(CARD, staging / "README.md")
    for path in staging.iterdir():
        path.chmod(0o644)
    write_manifest(staging, read)
    shutil.rmtree(out, ignore_errors=True)
    staging.rename(out)


def reference(bundle: Bundle, permanents: int) -> list[dict[str, object]]:
    """Return questions about the lasting world that the model answers rightly by itself.

    At most two a direction for each item. The two parts have no item in common: one holds all that
    may be replayed, since the more is, the less is forgotten, the other EXAMS questions.
    """
    rng = Random(5)
    asked: list[tuple[int, Item, Question]] = []
    for number, item in enumerate(permanent_items(permanents, 1)):
        for direction in ("forward", "backward"):
            fitting = {q.text: q for q in item.questions if q.direction == direction}
            chosen = rng.sample(sorted(fitting), min(2, len(fitting)))
            asked += [(number, item, fitting[text]) for text in chosen]
    replies = answer(bundle, [question for _, _, question in asked])
    rows: dict[str, list[dict[str, object]]] = {"replay": [], "exam": []}
    for (number, item, question), reply in zip(asked, replies, strict=True):
        if reply == question.answer:
            part = "replay" if number % 2 else "exam"
            row: dict[str, object] = {"question": question.text, "answers": [question.answer]}
            about = {"direction": question.direction, "part": part, "text": item.texts[0]}
            rows[part].append({**row, **about})
    exams = rng.sample(rows["exam"], min(EXAMS, len(rows["exam"])))
    return [*rng.sample(rows["replay"], len(rows["replay"])), *exams]


def write_manifest(folder: Path, read: dict[str, int]) -> None:
    """Write manifest.json with the SHA-256 and the size of every other file."""
    files = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(
        json.dumps({"pretraining": read, "files": files}, indent=2) + "\n"
    )
