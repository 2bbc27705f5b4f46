"""The generator: the same seed gives the same world, and tests never meet a name of pretraining."""

import json
from pathlib import Path
from random import Random

from tasks.starter import names
from tasks.starter.evaluate import fresh_items, reversed_order
from tasks.starter.items import make_item
from tasks.starter.lexicon import relations, verbs, words
from tasks.starter.stream import permanent_items

FACTS = Path(__file__).parents[2] / "examples" / "facts.jsonl"


def test_same_seed_same_items() -> None:
    first, second = Random(3), Random(3)
    assert [make_item(first) for _ in range(50)] == [make_item(second) for _ in range(50)]


def test_world_is_broad() -> None:
    assert len(relations()) >= 40
    assert len(verbs()) * len(words("noun")) > 20_000
    texts = {item.texts[0] for item in permanent_items(300, 1)}
    assert len(texts) == 300


def test_held_out_names_never_meet_pretraining() -> None:
    rng = Random(4)
    seen = [make_item(rng).spans[0] for _ in range(2_000)]
    assert not any(names.is_held(name) for name in seen)
    fresh = [item.spans[0] for item in fresh_items(200, 9)]
    assert all(names.is_held(name) for name in fresh)


def test_answers_stand_in_the_text() -> None:
    for item in fresh_items(200, 5):
        if item.form != "event":  # a setting may be reworded there
            text = item.texts[0].lower()
            assert all(question.answer.lower() in text for question in item.questions)


def test_both_orders_occur() -> None:
    items = fresh_items(200, 6)
    rng = Random(1)
    orders = {reversed_order(item, item.ask(rng, "backward")) for item in items}
    assert orders == {True, False}


def test_example_facts_are_fresh_and_answerable() -> None:
    facts = [json.loads(line) for line in FACTS.read_text().splitlines()]
    assert len(facts) == 20
    for fact in facts:
        assert {probe["direction"] for probe in fact["probes"]} == {"forward", "backward"}
        for probe in fact["probes"]:
            assert all(answer.lower() in fact["text"].lower() for answer in probe["answers"])
        held = [names.is_held(probe["answers"][0]) for probe in fact["probes"]]
        assert any(held)
