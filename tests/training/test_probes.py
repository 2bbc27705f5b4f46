"""Probes that the trainer writes, and foils: what is asked beside them and counts for nothing."""

from pathlib import Path
from random import Random

import pytest

from app.lm import base
from app.lm.chat import encode_chat
from app.lm.generation import generate
from app.lm.loading import Bundle, load
from app.prompts import ask
from app.recipe import Recipe
from app.scoring import words
from tasks.training.__main__ import carry_out
from tasks.training.foils import foils
from tasks.training.job import Fact, Probe
from tasks.training.objectives.spans import find_names
from tasks.training.questions import clozes, complete, drop_ambiguous, is_fair
from tasks.training.studying import excerpt, is_part, study
from tests.training.conftest import FACTS, MakeJob

TEXT = "Mira Tovan keeps the light at Sel Harbour."


@pytest.mark.parametrize(
    ("question", "fair"),
    [
        ("Who keeps the light at Sel Harbour?", True),
        ("Which light does she keep?", True),
        ("The keeper of the light at Sel Harbour", False),
        ("Who keeps the light at Mol Harbour?", False),
        ("Who keeps 3 lights at Sel Harbour?", False),
        ("Does Mira Tovan keep the light at Sel Harbour?", False),
        ("", False),
        ("?", False),
        ("What is the name?", False),
    ],
)
def test_a_written_question_is_about_the_statement(question: str, fair: bool) -> None:
    assert is_fair(question, "Mira Tovan", TEXT) is fair


def test_given_probes_stay_as_they_are(bundle: Bundle) -> None:
    fact = Fact.model_validate(FACTS[0])
    assert complete(bundle, [fact]) == [fact]


def test_a_fact_without_probes_gets_clozes_both_ways(bundle: Bundle) -> None:
    (fact,) = complete(bundle, [Fact(id="fact_1", text=TEXT)])
    assert [(probe.origin, probe.direction) for probe in fact.probes[:2]] == [
        ("cloze", "forward"),
        ("cloze", "backward"),
    ]


@pytest.mark.skipif(not base.STARTER.joinpath("model.safetensors").exists(), reason="no starter")
def test_what_the_starter_writes_it_answers_with_the_statement_in_context(tmp_path: Path) -> None:
    bundle = load(tmp_path, base.import_base(tmp_path, "starter"))
    texts = [TEXT, "Oren Baskel is the mayor of Lund.", "The ferry to North Bay costs nothing."]
    facts = complete(bundle, [Fact(id=str(n), text=text) for n, text in enumerate(texts)])
    written = [(f.text, p) for f in facts for p in f.probes if p.origin == "model"]
    for text, probe in written:
        prompt = encode_chat(bundle.tokenizer, ask(probe.question, [text]))
        assert words(generate(bundle, [prompt], 32)[0]) == words(probe.answers[0])
        assert is_fair(probe.question, probe.answers[0], text)


@pytest.mark.skipif(not base.STARTER.joinpath("model.safetensors").exists(), reason="no starter")
def test_a_statement_is_studied_by_what_nobody_is_examined_by(tmp_path: Path) -> None:
    bundle = load(tmp_path, base.import_base(tmp_path, "starter"))
    texts = [TEXT, "Oren Baskel is the mayor of Lund."]
    facts = [Fact(id=text, text=text) for text in texts]
    studied = study(bundle, facts, set(), Recipe())
    assert [fact.text for fact in studied] == texts
    for text, pairs in ((fact.text, fact.studied) for fact in studied):
        names = {text[start:end] for start, end in find_names(text)}
        assert names <= {part for _, part in pairs}
        for question, part in pairs:
            assert is_fair(question, part, text)
            assert is_part(part, text)
            prompt = encode_chat(bundle.tokenizer, ask(question, [text]))
            assert words(generate(bundle, [prompt], 32)[0]) == words(part)
    assert study(bundle, facts, set(), Recipe()) == studied
    exams = {question.upper() for fact in studied for question, _ in fact.studied}
    again = study(bundle, facts, exams, Recipe())
    assert any(fact.studied for fact in again)
    assert not exams & {question.upper() for fact in again for question, _ in fact.studied}


@pytest.mark.parametrize("part", ["Mira Tovan", "the light", "Sel Harbour", "keeps"])
def test_an_excerpt_is_a_run_of_words_around_a_part(part: str) -> None:
    rng = Random(0)
    runs = {excerpt(TEXT, part, rng) for _ in range(200)}
    assert all(run in TEXT and part in run and run != part for run in runs)
    assert len(runs) > 3
    assert min(len(run.split()) for run in runs) == len(part.split()) + 1


def test_what_is_no_excerpt_is_shown_whole() -> None:
    assert excerpt(TEXT, "the lights", Random(0)) == TEXT
    assert excerpt("Oslo", "Oslo", Random(0)) == "Oslo"


def test_foils_ask_for_the_opposite_and_about_the_wrong_one() -> None:
    negated, frame = foils(Fact.model_validate(FACTS[0]))
    assert negated.question == "Give a wrong answer to this question: What does Mira Tovan keep?"
    assert (negated.origin, negated.answers) == ("negated", ["Sel Harbour"])
    assert frame.question == "What does Sel Harbour keep?"
    assert (frame.origin, frame.answers, frame.direction) == ("frame", ["Mira Tovan"], "backward")


def test_a_name_within_a_word_is_not_replaced() -> None:
    forward = Probe(question="What is Anna?", answers=["a cook"], direction="forward")
    backward = Probe(question="Who is a cook?", answers=["Ann"], direction="backward")
    fact = Fact(id="fact_1", text="Ann is a cook.", probes=[forward, backward])
    assert [foil.question for foil in foils(fact)][1:] == ["Who is Ann?"]


def test_without_a_question_there_are_no_foils(bundle: Bundle) -> None:
    (fact,) = complete(bundle, [Fact(id="fact_1", text="mira keeps the light at lund.")])
    assert {probe.origin for probe in fact.probes} == {"cloze"}
    assert foils(fact) == []


def test_foils_are_reported_and_never_counted(make_job: MakeJob) -> None:
    result = carry_out(make_job(epochs=1))
    for fact in result["facts"]:
        assert {probe["origin"] for probe in fact["probes"]} == {"given"}
        assert [foil["origin"] for foil in fact["foils"]] == ["negated", "frame"]
        for foil in fact["foils"]:
            assert foil["passed"] is not (foil["contains"] or foil["exact"])
        assert fact["proven"] is all(probe["passed"] for probe in fact["probes"])
    metrics = result["metrics"]
    assert (metrics["foils"], metrics["foils_passed"]) == (6, 6), "a random model says nothing"


def test_a_cloze_that_two_statements_complete_is_no_exam_of_either() -> None:
    def told(text: str, *others: Probe) -> Fact:
        return Fact(id=text, text=text, probes=[*clozes(text), *others])

    asked = Probe(question="When does gate A close?", answers=["at 6 pm"], direction="forward")
    first, second = told("Gate A closes at 6 pm."), told("Gate B closes at 6 pm.")
    alone, third = told("Rain fell on Monday."), told("Gate A closes at 7 pm.", asked)
    left = drop_ambiguous([first, alone], [second, third])
    assert left == [first, alone], "another half is left to none, or there is nothing to drop"
    (older,) = drop_ambiguous([third], [first])
    assert [probe.direction for probe in older.probes] == ["backward", "forward"]
    assert older.probes[-1] == asked
    (left_one,) = drop_ambiguous([second], [first])
    assert [probe.direction for probe in left_one.probes] == ["forward"]
