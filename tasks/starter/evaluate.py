"""Measures a starter model by what it is for: fresh facts, one update, questions both ways."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any, Literal

from app.lm.loading import Bundle
from app.recipe import Recipe
from app.scoring import Score, score
from tasks.starter.facts import Question
from tasks.starter.items import Item, make_item
from tasks.starter.update import Lasting, answer, open_base, update
from tasks.training import drift
from tasks.training.job import Reference

Table = dict[str, float]
DIRECTIONS = ("forward", "backward")
Paraphrases = Literal["none", "same", "permuted"]
# A statement and so many paraphrases of it less one, where paraphrases are taught.
WORDINGS = 9


def fresh_items(count: int, seed: int, wordings: int = 1) -> list[Item]:
    """Return items whose names pretraining never had, each askable in both directions."""
    rng = Random(seed)
    items: list[Item] = []
    while len(items) < count:
        item = make_item(rng, held=True, wordings=wordings)
        if len({q.direction for q in item.questions}) == 2:
            items.append(item)
    return items


def measure(folder: Path, count: int, recipe: Recipe, paraphrases: Paraphrases = "none") -> Table:
    """Ask before and after one update on fresh facts; accuracies from 0 to 1, times in seconds.

    Two questions a direction and fact. `reversed`: the statement names the answer before what the
    question gives. `kept`: questions about the lasting world from the exam part of the reference;
    `kl`: to the model before, in nats a token of that part's statements.
    Paraphrases are taught beside each statement: all, or those with the names in its order.
    """
    bundle = open_base(folder)
    items = fresh_items(count, 10_000 + recipe.seed, 1 if paraphrases == "none" else WORDINGS)
    rng = Random(recipe.seed)
    asked = [(item, item.ask(rng, d)) for item in items for d in DIRECTIONS * 2]
    rows = reference_rows(folder)
    kept = lasting_questions(rows)
    texts = drift.texts_of([Reference.model_validate(row) for row in rows])
    yardstick = drift.record(bundle, texts)
    assert yardstick is not None  # noqa: S101 - narrows the type
    table = {
        "unknown": _share(bundle, [question for _, question in asked]),
        "kept_before": _share(bundle, kept),
    }
    begun = time.monotonic()
    texts = [text for item in items for text in taught(item, paraphrases)]
    update(bundle, texts, recipe, replayed(rows), {question.text for _, question in asked})
    table["seconds"] = time.monotonic() - begun
    table |= _by_group(asked, _scores(bundle, [question for _, question in asked]))
    return table | {"kept_after": _share(bundle, kept), "kl": drift.measure(bundle, yardstick)}


def overlay(folder: Path, count: int, seed: int) -> Table:
    """Ask with the statement in context, alone and among three; nothing is trained."""
    rng, bundle = Random(seed), open_base(folder)
    items, others = fresh_items(count, 20_000 + seed), fresh_items(2 * count, 30_000 + seed)
    questions = [item.ask(rng) for item in items]
    alone = [[item.texts[0]] for item in items]
    among = [[*note, *(o.texts[0] for o in rng.sample(others, 2))] for note in alone]
    for note in among:
        rng.shuffle(note)
    table: Table = {}
    for name, notes in (("alone", alone), ("among_three", among)):
        marks = _scores(bundle, questions, notes)
        table |= {f"{name}_exact": mean(m.exact for m in marks)}
        table |= {f"{name}_rouge1": mean(m.rouge1 for m in marks)}
    return table


def written(folder: Path, file: Path, recipe: Recipe) -> Table:
    """Update on a file of facts and ask their probes, before that with the fact in context."""
    bundle = open_base(folder)
    facts = [json.loads(line) for line in file.read_text().splitlines()]
    probes = [(fact["text"], probe) for fact in facts for probe in fact["probes"]]
    questions = [Question(p["question"], p["answers"][0], p["direction"]) for _, p in probes]
    accepted = [p["answers"] for _, p in probes]
    shown = _scores(bundle, questions, [[text] for text, _ in probes], accepted)
    exams, rows = {question.text for question in questions}, reference_rows(folder)
    update(bundle, [fact["text"] for fact in facts], recipe, replayed(rows), exams)
    known = _scores(bundle, questions, accepted=accepted)
    table: Table = {}
    for direction in DIRECTIONS:
        places = [i for i, q in enumerate(questions) if q.direction == direction]
        table[f"{direction}_rouge1"] = mean(known[i].rouge1 for i in places)
        table[f"{direction}_exact"] = mean(known[i].exact for i in places)
        table[f"{direction}_overlay_exact"] = mean(shown[i].exact for i in places)
    return table


def taught(item: Item, paraphrases: Paraphrases) -> list[str]:
    """Return the statements of an item that an update is given, the first always among them."""
    first, *others = item.texts
    if paraphrases == "none":
        return [first]

    def order(text: str) -> list[int]:
        places = [text.lower().find(span.lower()) for span in item.spans]
        return sorted(range(len(places)), key=places.__getitem__)

    return [first, *(t for t in others if paraphrases == "permuted" or order(t) == order(first))]


def lasting_questions(rows: Sequence[dict[str, Any]]) -> list[Question]:
    """Return a hundred questions of the reference's exam part."""
    exam = [row for row in rows if row["part"] == "exam"][:100]
    return [Question(row["question"], row["answers"][0], row["direction"]) for row in exam]


def reference_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the model's reference set."""
    return [json.loads(line) for line in (folder / "reference.jsonl").read_text().splitlines()]


def replayed(rows: Sequence[dict[str, Any]]) -> Lasting:
    """Return the replay part of a reference set as the trainer takes it."""
    part = [row for row in rows if row["part"] == "replay"]
    return Lasting(
        list(dict.fromkeys(row["text"] for row in part)),
        [(row["question"], row["answers"][0]) for row in part],
    )


def reversed_order(item: Item, question: Question) -> bool:
    """Say whether the statement names the answer before what the question gives."""
    text = item.texts[0].lower()
    asked = question.text.lower()
    given = [s for s in item.spans if s != question.answer and s.lower() in asked]
    if not given or question.answer.lower() not in text:
        return False
    return text.find(question.answer.lower()) < text.find(given[0].lower())


def _by_group(asked: Sequence[tuple[Item, Question]], marks: Sequence[Score]) -> Table:
    groups: dict[str, list[float]] = {}
    for (item, question), mark in zip(asked, marks, strict=True):
        names = [question.direction, f"{question.direction}_{item.form}"]
        names += ["reversed"] if reversed_order(item, question) else []
        for name in names:
            groups.setdefault(name, []).append(float(mark.exact))
        groups.setdefault(f"{question.direction}_rouge1", []).append(mark.rouge1)
    return {name: mean(values) for name, values in groups.items()}


def _scores(
    bundle: Bundle,
    questions: Sequence[Question],
    notes: Sequence[Sequence[str]] = (),
    accepted: Sequence[Sequence[str]] = (),
) -> list[Score]:
    replies = answer(bundle, questions, notes)
    wanted = accepted or [[q.answer] for q in questions]
    return [score(reply, right) for reply, right in zip(replies, wanted, strict=True)]


def _share(bundle: Bundle, questions: Sequence[Question]) -> float:
    return mean(mark.exact for mark in _scores(bundle, questions)) if questions else 0.0
