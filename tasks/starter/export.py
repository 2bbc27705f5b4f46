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
UNLISTED = 6  # of so many lasting items one is never rehearsed
Row = dict[str, object]
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

    Of EXAMS questions half are about items that are rehearsed by others of their questions, half
    about items that nothing rehearses: what they lose is what a model loses that nobody listed.
    All others about the rehearsed items may be replayed, since what is rehearsed stays.
    """
    rng = Random(5)
    replay: list[Row] = []
    others: list[Row] = []
    unlisted: list[Row] = []
    for number, rows in enumerate(_known(bundle, permanents, rng)):
        if number % UNLISTED == 0:
            unlisted += rows
            continue
        if len(rows) > 1:
            others.append(rows.pop(rng.randrange(len(rows))))
        replay += rows
    halves = [rng.sample(rows, min(EXAMS // 2, len(rows))) for rows in (others, unlisted)]
    exams = [row for half in halves for row in half]
    replay += [row for row in others if row not in exams]
    parts = {"replay": rng.sample(replay, len(replay)), "exam": rng.sample(exams, len(exams))}
    return [{**row, "part": part} for part, rows in parts.items() for row in rows]


def _known(bundle: Bundle, permanents: int, rng: Random) -> list[list[Row]]:
    """Return, for each lasting item, two questions a direction at most, answered rightly."""
    asked: list[tuple[Item, Question]] = []
    items = permanent_items(permanents, 1)
    for item in items:
        for direction in ("forward", "backward"):
            fitting = {q.text: q for q in item.questions if q.direction == direction}
            chosen = rng.sample(sorted(fitting), min(2, len(fitting)))
            asked += [(item, fitting[text]) for text in chosen]
    replies = answer(bundle, [question for _, question in asked])
    known: dict[int, list[Row]] = {id(item): [] for item in items}
    for (item, question), reply in zip(asked, replies, strict=True):
        if reply == question.answer:
            row: Row = {"question": question.text, "answers": [question.answer]}
            known[id(item)].append(row | {"direction": question.direction, "text": item.texts[0]})
    return list(known.values())


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
