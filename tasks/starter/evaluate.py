"""Measures a starter model by what it is for: fresh facts, one update, questions both ways."""

import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import mean

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.starter.facts import Question
from tasks.starter.items import Item, make_item
from tasks.starter.stream import permanent_items
from tasks.starter.update import Recipe, Statement, answer, load, update
from tasks.training.scoring import score

Table = dict[str, float]


def fresh_items(count: int, seed: int) -> list[Item]:
    """Return items whose names pretraining never had, each askable in both directions."""
    rng = Random(seed)
    items: list[Item] = []
    while len(items) < count:
        item = make_item(rng, held=True, wordings=1)
        if len({q.direction for q in item.questions}) == 2:
            items.append(item)
    return items


def measure(folder: Path, count: int, seed: int, recipe: Recipe, permanents: int = 400) -> Table:
    """Ask before and after one update on fresh facts; accuracies from 0 to 1, times in seconds."""
    base, tokenizer = load(folder)
    model = copy.deepcopy(base)
    items = fresh_items(count, 10_000 + seed)
    lasting = permanent_items(permanents, 1)
    rng = Random(seed)
    asked = [(i, item.ask(rng, d)) for i, item in enumerate(items) for d in DIRECTIONS * 2]
    table = {"unknown": _share(base, tokenizer, [q for _, q in asked[::2]])}
    kept = [item.ask(rng, d) for item in lasting[: len(lasting) // 2][:60] for d in DIRECTIONS]
    table["kept_before"] = _share(base, tokenizer, kept)
    begun = time.monotonic()
    facts = [Statement(item.texts[0], item.spans) for item in items]
    update(model, tokenizer, facts, recipe, lasting[len(lasting) // 2 :] if recipe.replay else ())
    table["seconds"] = time.monotonic() - begun
    marks = _marks(model, tokenizer, [q for _, q in asked])
    by: dict[str, list[float]] = {}
    for (i, question), mark in zip(asked, marks, strict=True):
        by.setdefault(question.direction, []).append(mark)
        by.setdefault(f"{items[i].form[:4]}_{question.direction[:1]}", []).append(mark)
        if reversed_order(items[i], question):
            by.setdefault("reversed", []).append(mark)
    table |= {name: mean(values) for name, values in by.items()}
    table["kept_after"] = _share(model, tokenizer, kept)
    return table


def overlay(folder: Path, count: int, seed: int) -> Table:
    """Ask with the statement and two unrelated ones in context, nothing trained."""
    model, tokenizer = load(folder)
    rng = Random(seed)
    items, others = fresh_items(count, 20_000 + seed), fresh_items(2 * count, 30_000 + seed)
    questions = [item.ask(rng) for item in items]
    notes = [[item.texts[0], *(o.texts[0] for o in rng.sample(others, 2))] for item in items]
    for note in notes:
        rng.shuffle(note)
    replies = answer(model, tokenizer, questions, notes)
    marks = [score(r, [q.answer]).exact for r, q in zip(replies, questions, strict=True)]
    return {"overlay": mean(marks)}


def written(folder: Path, file: Path, recipe: Recipe) -> Table:
    """Update on a file of facts and ask their probes; recall by ROUGE-1, and exact matches."""
    model, tokenizer = load(folder)
    facts = [json.loads(line) for line in file.read_text().splitlines()]
    probes = [probe for fact in facts for probe in fact["probes"]]
    questions = [Question(p["question"], p["answers"][0], p["direction"]) for p in probes]
    notes = [[fact["text"]] for fact in facts for _ in fact["probes"]]
    in_context = answer(model, tokenizer, questions, notes)
    update(model, tokenizer, [Statement(f["text"], capitalised(f["text"])) for f in facts], recipe)
    replies = answer(model, tokenizer, questions)
    table: Table = {}
    for direction in DIRECTIONS:
        chosen = [i for i, q in enumerate(questions) if q.direction == direction]
        scores = [score(replies[i], probes[i]["answers"]) for i in chosen]
        shown = [score(in_context[i], probes[i]["answers"]) for i in chosen]
        table[f"{direction}_rouge1"] = mean(s.rouge1 for s in scores)
        table[f"{direction}_exact"] = mean(s.exact for s in scores)
        table[f"{direction}_overlay"] = mean(s.exact for s in shown)
    return table


def capitalised(text: str) -> list[str]:
    """Return the runs of capitalised words of a text: a guess at its names."""
    runs: list[list[str]] = [[]]
    for word in text.split():
        bare = word.strip("\"'.,;:!?()")
        if bare[:1].isupper() or bare[:1].isdigit():
            runs[-1].append(bare)
        else:
            runs.append([])
        if word[-1:] in ".,;:!?)":
            runs.append([])
    return [" ".join(run) for run in runs if run] or [text]


def reversed_order(item: Item, question: Question) -> bool:
    """Say whether the statement names the answer before what the question gives."""
    text = item.texts[0].lower()
    given = [s for s in item.spans if s != question.answer and s in question.text]
    if not given or question.answer.lower() not in text:
        return False
    return text.find(question.answer.lower()) < text.find(given[0].lower())


DIRECTIONS = ("forward", "backward")


def _marks(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question]
) -> list[float]:
    replies = answer(model, tokenizer, questions)
    return [float(score(r, [q.answer]).exact) for r, q in zip(replies, questions, strict=True)]


def _share(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question]
) -> float:
    return mean(_marks(model, tokenizer, questions))
