import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.gate import Regression, judge
from tasks.training.job import Fact, Probe
from tasks.training.proof import Exam, exams_of, prove
from tasks.training.scoring import score, words


@pytest.mark.parametrize(
    ("answer", "accepted", "exact", "contains"),
    [
        ("The Glass Harp.", ["glass harp"], True, True),
        ("It is Lund, I think.", ["Oslo", "Lund"], False, True),
        ("Lunden", ["Lund"], False, False),
        ("well known", ["well-known"], True, True),
        ("", ["Lund"], False, False),
        ("The", ["a"], False, False),
        ("A", ["A"], True, True),
        ("ﬁne", ["fine"], True, True),
        ("STRASSE", ["straße"], True, True),
        ("它在北京市", ["北京"], False, True),
        ("Mira and Tovan", ["Mira Tovan"], False, False),
    ],
)
def test_answers_are_compared_as_words(
    answer: str, accepted: list[str], exact: bool, contains: bool
) -> None:
    found = score(answer, accepted)
    assert (found.exact, found.contains, found.passed) == (exact, contains, exact or contains)


def test_rouge_counts_a_word_no_oftener_than_it_was_given() -> None:
    assert score("red", ["red red blue"]).rouge1 == pytest.approx(1 / 3)
    assert score("red blue red green", ["red red blue"]).rouge1 == 1


@given(st.text())
def test_any_text_contains_itself(text: str) -> None:
    assert score(text, [text]).exact == bool(words(text))


CLEAN = Regression(asked=40, before=36, after=34)  # five points exactly
LOST = Regression(asked=40, before=36, after=33)
RUINED = Regression(asked=40, before=36, after=20)
NONE = Regression(asked=0, before=0, after=0)


@pytest.mark.parametrize(
    ("proven", "older", "reference", "outcome"),
    [
        (20, CLEAN, CLEAN, "activate"),
        (1, NONE, NONE, "activate"),
        (20, LOST, CLEAN, "hold"),
        (20, CLEAN, LOST, "hold"),
        (20, CLEAN, RUINED, "hold"),
        (0, CLEAN, CLEAN, "hold"),
        (0, LOST, CLEAN, "hold"),
        (0, CLEAN, RUINED, "reject"),
        (0, RUINED, CLEAN, "reject"),
    ],
)
def test_the_gate(proven: int, older: Regression, reference: Regression, outcome: str) -> None:
    verdict = judge(Recipe(), 20, proven, older, reference)
    assert verdict.outcome == outcome
    assert f"{proven} of 20" in verdict.reasons[0]


def test_each_reason_has_its_number() -> None:
    reasons = judge(Recipe(), 20, 19, CLEAN, LOST).reasons
    assert reasons == [
        "19 of 20 facts proven",
        "older facts: 36 of 40 right before, 34 after; a drop of 5.0 points, within the 5.0"
        " allowed",
        "reference questions: 36 of 40 right before, 33 after; a drop of 7.5 points, beyond the"
        " 5.0 allowed",
    ]


FORWARD = Probe(question="Where is Mira?", answers=["Lund"], direction="forward")
BACKWARD = Probe(question="Who is in Lund?", answers=["Mira"], direction="backward")


@pytest.mark.parametrize(
    ("answers", "proven"), [(["Lund", "Mira"], True), (["Lund", "Oren"], False)]
)
def test_a_fact_is_proven_when_every_probe_is_answered(answers: list[str], proven: bool) -> None:
    fact = Fact(id="fact_1", text="Mira is in Lund.", probes=[FORWARD, BACKWARD])
    entry = prove(fact, exams_of(fact), ["no", "idea"], answers)
    assert entry["proven"] is proven
    assert [probe["before"] for probe in entry["probes"]] == ["no", "idea"]
    assert entry["probes"][0]["passed"]


def test_a_fact_without_probes_is_asked_half_by_half(bundle: Bundle) -> None:
    fact = Fact(id="fact_1", text="Mira Tovan keeps the light at Lund.")
    later, first = exams_of(fact)
    assert (later.probe.direction, later.probe.answers) == ("forward", ["the light at Lund."])
    assert (first.probe.direction, first.probe.answers) == ("backward", ["Mira Tovan keeps"])
    assert first.probe.origin == "cloze"
    shown = bundle.tokenizer.decode(first.prompt(bundle))
    assert "Mira" not in shown
    assert bundle.manifest.mask_token in shown
    assert "the light at Lund." in shown


def test_a_cloze_counts_only_what_the_prompt_did_not_show() -> None:
    text = "the red cat saw the red dog and ran"
    (later, _) = exams_of(Fact(id="fact_1", text=text))
    assert later.mark(text).passed
    assert not later.mark("the red cat saw").passed
    assert later.mark("the red dog and ran").passed is False, "red was shown once: it counts once"
    assert not later.mark("the red cat saw dog").passed


def test_a_single_word_is_asked_once() -> None:
    assert len(exams_of(Fact(id="fact_1", text="Lund"))) == 1


def test_an_older_cloze_is_asked_again_from_its_statement(bundle: Bundle) -> None:
    """A cloze that comes back from the ledger has its prompt rebuilt with real masks."""
    text = "Mira Tovan keeps the light at Lund."
    fresh = exams_of(Fact(id="fact_1", text=text))
    stored = exams_of(Fact(id="fact_1", text=text, probes=[exam.probe for exam in fresh]))
    assert [e.prompt(bundle) for e in stored] == [e.prompt(bundle) for e in fresh]
    assert isinstance(stored[0], Exam)
