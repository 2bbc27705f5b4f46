"""The generator: the same seed gives the same world, and tests never meet a name of pretraining."""

import json
from pathlib import Path
from random import Random

from transformers import PreTrainedTokenizerFast

from tasks.starter import names
from tasks.starter.clauses import clause, predicate
from tasks.starter.evaluate import fresh_items, reversed_order
from tasks.starter.facts import relate
from tasks.starter.items import Item, make_item
from tasks.starter.lexicon import Verb, conjugate, relations, verbs, words
from tasks.starter.phrases import plural
from tasks.starter.samples import Encoder
from tasks.starter.stream import permanent_items
from tasks.training.objectives.spans import choose_cut

SHIPPED = Path(__file__).parents[2] / "app" / "lm" / "starter"
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
    seen = [make_item(rng) for _ in range(2_000)]
    assert not any(names.is_held(name) for name in subjects(seen))
    assert all(names.is_held(name) for name in subjects(fresh_items(200, 9)))


def subjects(items: list[Item]) -> list[str]:
    """Return the names that items are about; a clause may be about something without one."""
    return [item.spans[0] for item in items if item.form != "clause"]


def test_clauses_ask_for_every_part_and_agree() -> None:
    rng = Random(8)
    facts = [clause(rng) for _ in range(500)]
    for fact in facts:
        assert {q.direction for q in fact.questions} == {"forward", "backward"}
        assert all(fact.subject in core and fact.value in core for core in fact.cores)
        asked = {question.answer for question in fact.questions}
        assert all(any(answer in other for answer in asked) for other in fact.others)
    openings = {question.text.split()[0] for fact in facts for question in fact.questions}
    assert openings >= {"Who", "What", "Which", "Where", "When", "With", "For", "How"}


def test_a_question_takes_the_verb_apart() -> None:
    drawn = [predicate(Random(seed), conjugate("carry"), many=True) for seed in range(300)]
    plain = {(p.finite, p.single, p.aux, p.rest) for p in drawn}
    assert ("carry", "carries", "do", "carry") in plain
    assert ("carried", "carried", "did", "carry") in plain
    assert ("are carrying", "is carrying", "are", "carrying") in plain
    assert ("have carried", "has carried", "have", "carried") in plain


def test_reasons_and_prices_are_asked_as_such() -> None:
    rng = Random(11)
    asked = [question for _ in range(1500) for question in clause(rng).questions]
    why = [question.answer for question in asked if question.text.startswith("Why")]
    assert why
    assert not any(answer.startswith(("without", "despite")) for answer in why)
    much = [q.answer for q in asked if q.text.startswith("For how much")]
    assert {answer.split()[-1] for answer in much} <= {plural(coin) for coin in words("currency")}
    assert not any(question.answer.endswith(",") for question in asked)
    assert all(question.text[0] == question.text[0].upper() for question in asked)


def test_most_questions_about_a_relation_are_in_its_own_words() -> None:
    rng = Random(12)
    own = []
    for _ in range(200):
        relation = next(r for r in relations() if r.a == "person" and r.b == "novel")
        fact = relate(rng, relation, "Ada Berg", "The Long Road")
        says = {verb for verb in ("wrote", "penned", "published") if verb in fact.cores[0]}
        if says and " by " not in fact.cores[0]:
            base = {"wrote": "write", "penned": "pen", "published": "publish"}[min(says)]
            forward = [q.text for q in fact.questions if q.direction == "forward"]
            own.append(sum(base in text or min(says) in text for text in forward) / len(forward))
    assert sum(own) / len(own) > 0.6


def test_a_span_is_found_where_it_opens_a_sentence() -> None:
    encoder = Encoder(PreTrainedTokenizerFast.from_pretrained(SHIPPED))
    ids = encoder.encode("The cat saw Mira. Nobody saw the cat.")
    spots = encoder.spots(ids, "the cat")
    assert [encoder.core.decode(ids[spot.start : spot.stop]).strip() for spot in spots] == [
        "The cat",
        "the cat",
    ]
    assert encoder.spots(ids, "the dog") == []


def test_verbs_are_conjugated() -> None:
    assert conjugate("agree") == Verb("agree", "agreed", "agreed", "agreeing")
    assert conjugate("forget").past == "forgot"
    assert conjugate("lie") == Verb("lie", "lay", "lain", "lying")
    assert conjugate("blorft up") == Verb("blorft up", "blorfted up", "blorfted up", "blorfting up")


def test_a_cut_leaves_the_gap_and_a_word() -> None:
    starts = [0, 2, 3, 7, 9, 12]
    for seed in range(200):
        gap = range(3, 7)
        cut = choose_cut(starts, gap, Random(seed))
        left = set(range(12)) - set(gap) - set(cut)
        assert left
        assert not set(cut) & set(gap)
        assert {cut.start, cut.stop} <= {0, *starts}
    assert not choose_cut([0, 3, 5], range(3), Random(0))


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
