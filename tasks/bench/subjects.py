"""The facts of an experiment: read from a file, or invented in the starter's world."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.cli.console import Stop
from app.cli.imports import read_jsonl
from app.scoring import words
from tasks.starter.evaluate import fresh_items, taught
from tasks.training.job import Fact, Probe

WORDINGS = 9
TUNED = 1 / 3  # share of the facts on which learning rate and epochs are chosen


@dataclass(frozen=True)
class Subject:
    """One fact with its probes and with its paraphrases, which keep its order or turn it round."""

    id: str
    text: str
    probes: tuple[Probe, ...]
    same: tuple[str, ...]
    permuted: tuple[str, ...]


def read_subjects(path: Path) -> list[Subject]:
    """Read facts in the shape of ``POST /v1/facts``; Stop names a line without text or probes."""
    subjects = []
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            fact = Fact(id=str(number), text=row.get("text", ""), probes=row.get("probes", []))
        except ValidationError as error:
            where = "/".join(map(str, error.errors()[0]["loc"]))
            raise Stop(f"{path}, line {number}: {where}: {error.errors()[0]['msg']}.") from None
        if not fact.probes:
            raise Stop(f"{path}, line {number}: it has no probes, so nothing tells if it is known.")
        more = row.get("metadata") or {}
        same, permuted = (tuple(more.get(name, ())) for name in ("paraphrases", "permuted"))
        subjects.append(Subject(fact.id, fact.text, tuple(fact.probes), same, permuted))
    return subjects


def invent(path: Path, count: int, seed: int) -> None:
    """Write facts about names that the starter never saw, with paraphrases in both orders."""
    rng, begun = random.Random(seed), path.with_suffix(".new")
    with begun.open("w", encoding="utf-8") as file:
        for item in fresh_items(count, seed, WORDINGS):
            _, *same = taught(item, "same")
            _, *others = taught(item, "permuted")
            asked = [item.ask(rng, way) for way in ("forward", "backward") for _ in range(2)]
            fact: dict[str, Any] = {
                "text": item.texts[0],
                "probes": [
                    {"question": q.text, "answers": [q.answer], "direction": q.direction}
                    for q in dict.fromkeys(asked)
                ],
                "metadata": {
                    "paraphrases": same,
                    "permuted": [text for text in others if text not in same],
                },
            }
            file.write(json.dumps(fact, ensure_ascii=False) + "\n")
    begun.rename(path)  # a run that is killed here invents anew, never goes on with a part


def open_subjects(given: Path | None, out: Path, count: int, seed: int) -> list[Subject]:
    """Read the first facts of a file, or those that were once invented into ``out``.

    Stop where there are fewer than ``count``.
    """
    path = given or out / "facts.jsonl"
    if given is None and not path.exists():
        invent(path, count, seed)
    subjects = read_subjects(path)[:count]
    if len(subjects) < count:
        raise Stop(f"{path} holds {len(subjects)} facts; {count} are needed.")
    return subjects


def is_reversed(text: str, probe: Probe) -> bool:
    """Say whether a statement has the answer before what the question tells about it.

    Only such questions go against the order in which next-token prediction learned the statement.
    """
    statement, asked = words(text), words(probe.question)
    cue = SequenceMatcher(None, statement, asked, autojunk=False).find_longest_match()
    for answer in map(words, probe.answers):
        for at in range(len(statement) - len(answer) + 1):
            if answer and statement[at : at + len(answer)] == answer:
                return cue.size > 0 and at + len(answer) <= cue.a
    return False


def split(subjects: Sequence[Subject], seed: int = 0) -> tuple[list[Subject], list[Subject]]:
    """Part the facts into those that arms are tuned on, and those that figures are reported on."""
    shuffled = random.Random(seed).sample(list(subjects), len(subjects))
    count = max(1, round(TUNED * len(shuffled)))
    return shuffled[:count], shuffled[count:]
