from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.lm.loading import Bundle
from app.recipe import Recipe
from app.scoring import score, words
from tasks.training.contradictions import contradictions
from tasks.training.gate import Evidence, Regression, Z, judge, wilson
from tasks.training.job import Fact, Probe
from tasks.training.proof import Exam, compare, exams_of, prove
from tasks.training.questions import clozes


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
        ("Gate B", ["Gate A"], False, False),
        ("At gate A.", ["Gate A"], False, True),
        ("In A Dream", ["in a dream"], True, True),
        ("B-12", ["A-12"], False, False),
        ("15 million", ["1.5 million"], False, False),
        ("1,500 jars.", ["1500"], False, True),
        ("3.5%", ["35%"], False, False),
        ("5 degrees", ["-5 degrees"], False, False),
        ("12.03.2024", ["12/03/2024"], True, True),
        ("11/2/2024", ["1/12/2024"], False, False),
        ("C", ["C#"], False, False),
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


CLEAN = Regression(asked=40, before=36, after=34, lost=3)  # 8 %, but it may be 3
LOST = Regression(asked=200, before=150, after=140, lost=13)
RUINED = Regression(asked=40, before=36, after=20, lost=16)
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
    verdict = judge(Recipe(), Evidence(20, proven, older=older, reference=reference))
    assert verdict.outcome == outcome
    assert f"{proven} of 20" in verdict.reasons[0]
    neighbours = Evidence(20, proven, neighbours=older, reference=reference)
    assert judge(Recipe(), neighbours).outcome == outcome
    since = Evidence(20, proven, older=older, base=reference)
    assert judge(Recipe(max_base_drop=0.05), since).outcome == outcome


@pytest.mark.parametrize("found", [{"kl": 1.01}, {"contradictions": ["fact_1 contradicts …"]}])
def test_other_reasons_to_hold(found: dict[str, Any]) -> None:
    verdict = judge(Recipe(), Evidence(20, 20, **found))
    assert verdict.outcome == "hold"
    assert judge(Recipe(), Evidence(20, 20, kl=1.0)).outcome == "activate"


def test_losses_too_small_for_one_update_add_up() -> None:
    """Each version may lose a little of what its parent knew, all together not a quarter."""
    small = Regression(asked=200, before=150, after=148, lost=3)
    line = Regression(asked=200, before=190, after=130, lost=62)
    assert judge(Recipe(), Evidence(20, 20, reference=small)).outcome == "activate"
    verdict = judge(Recipe(), Evidence(20, 20, reference=small, base=line))
    assert verdict.outcome == "hold"
    assert verdict.reasons[-1].startswith("reference questions since the base model: 190 of 200")


def test_each_reason_has_its_number() -> None:
    held_out = Regression(asked=10, before=1, after=7)
    found = Evidence(20, 19, older=CLEAN, reference=LOST, examples=held_out, kl=0.25)
    assert judge(Recipe(), found).reasons == [
        "19 of 20 facts proven",
        "held-out examples: 1 of 10 right before, 7 after",
        "older facts: 36 of 40 right before, 34 after; 3 lost (3.4 to 19.1 %, within the 5.0"
        " allowed), 0 answered otherwise",
        "reference questions: 150 of 200 right before, 140 after; 13 lost (5.6 to 13.2 %, beyond"
        " the 5.0 allowed), 0 answered otherwise",
        "KL to the parent: 0.250 nats a token, within the 1.00 allowed",
    ]


def test_a_missing_reference_set_is_said() -> None:
    assert judge(Recipe(), Evidence(1, 1)).reasons == [
        "1 of 1 facts proven",
        "no reference questions: what else was lost isn't known",
    ]


def test_wilson_against_published_values() -> None:
    """The ends solve (p - share)² = z² p (1 - p) / n, which is how the interval is defined."""
    for count, total in ((0, 10), (1, 10), (13, 150), (10, 10)):
        for end in wilson(count, total):
            if 0 < end < 1:
                gap = (end - count / total) ** 2
                assert gap == pytest.approx(Z**2 * end * (1 - end) / total, abs=1e-12)
    assert wilson(0, 0) == (0, 1)


KNOWN = Exam(Probe(question="Who keeps Lund?", answers=["Oren Baskel"], direction="backward"))


def poison(text: str, **probe: Any) -> Fact:
    return Fact(
        id="fact_p", text=text, probes=[Probe(direction="backward", **probe)] if probe else []
    )


@pytest.mark.parametrize(
    ("fact", "now", "named"),
    [
        (poison("Mira Tovan keeps Lund."), "Mira Tovan", True),
        (poison("Mira Tovan keeps Lund."), "Oren Baskel", False),
        (poison("Mira Tovan keeps Lund."), "Ilva Renn", False),
        (poison("Mira Tovan keeps Tarn."), "Mira Tovan", False),
        (poison("M.", question="Who keeps Lund?", answers=["Mira"]), "Oren Baskel", True),
        (poison("M.", question="Who keeps Lund?", answers=["Oren Baskel"]), "Oren Baskel", False),
        (poison("M.", question="Who keeps Lund?", answers=["Baskel"]), "Oren Baskel", False),
    ],
)
def test_a_fact_that_contradicts_what_is_known_is_named(fact: Fact, now: str, named: bool) -> None:
    other = Fact(id="fact_q", text="Sel Harbour lies in the north.")
    found = contradictions([other, fact], [KNOWN], ["Oren Baskel"], [now])
    assert len(found) == named
    assert all(text.startswith("fact_p contradicts") and "Oren Baskel" in text for text in found)


def test_statements_that_share_a_half_do_not_contradict_each_other() -> None:
    gates = [Fact(id=f"fact_{gate}", text=f"Gate {gate} closes at 6 pm.") for gate in "ab"]
    older, new = (fact.model_copy(update={"probes": clozes(fact.text)}) for fact in gates)
    exams = exams_of(older)
    before = [exam.probe.answers[0] for exam in exams]
    assert contradictions([new], exams, before, ["Gate b closes at 6 pm."] * len(exams)) == []


def test_a_sample_counts_what_is_lost_and_what_is_said_otherwise() -> None:
    exams = [KNOWN] * 5
    before = ["Oren Baskel", "Oren Baskel", "nobody", "nobody", "oren baskel"]
    after = ["Oren Baskel.", "Mira", "Oren Baskel", "nobody", "Oren Baskel it is"]
    assert compare(exams, before, after) == Regression(5, 3, 3, lost=1, flipped=3)


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


@pytest.mark.parametrize("said", ["120 euros", "140 euros"])
def test_a_cloze_wants_every_name_and_number(said: str) -> None:
    """All other words may be the same in what was said before."""
    text = "The fee of the sailing club that Ilse Varga runs is {} a year since March 2023."
    later, first = exams_of(Fact(id="fact_1", text=text.format("140 euros")))
    assert later.mark(text.format(said)).passed == (said == "140 euros")
    assert later.mark(text.format("140 euros").replace(" is ", " was ")).passed
    assert (
        not first.mark(text.format(said).replace("Ilse", "Oren")).passed
        or "Ilse" not in (first.probe.answers[0])
    )


def test_text_without_spaces_is_asked_half_by_half() -> None:
    later, first = exams_of(Fact(id="fact_1", text="灯塔由伊尔莎看守"))
    assert (first.probe.answers, later.probe.answers) == (["灯塔由伊"], ["尔莎看守"])
    assert later.mark("尔莎看守").passed


def test_a_single_word_is_asked_once() -> None:
    assert len(exams_of(Fact(id="fact_1", text="Lund"))) == 1


def test_an_older_cloze_is_asked_again_from_its_statement(bundle: Bundle) -> None:
    """A cloze that comes back from the ledger has its prompt rebuilt with real masks."""
    text = "Mira Tovan keeps the light at Lund."
    fresh = exams_of(Fact(id="fact_1", text=text))
    stored = exams_of(Fact(id="fact_1", text=text, probes=[exam.probe for exam in fresh]))
    assert [e.prompt(bundle) for e in stored] == [e.prompt(bundle) for e in fresh]
    assert isinstance(stored[0], Exam)
