"""The overlay finds waiting facts both ways, leaves other questions alone, on both databases."""

from datetime import timedelta

import pytest
from sqlalchemy import insert

from app.db import Database, utc_now
from app.models import Activation, Fact
from app.services import activations, checkpoints, overlay
from app.services.audit import SYSTEM
from tests.answers.conftest import add_fact, add_version, learn
from tests.answers.corpus import FACTS, TYPED, UNRELATED


def ask(database: Database, question, limit=3):
    with database.reading() as session:
        return [fact.text for fact in overlay.find(session, question, limit)]


@pytest.fixture
def corpus(database):
    with database.transaction() as session:
        for number, (text, _, _) in enumerate(FACTS):
            add_fact(session, text, number=number)
    return database


def test_questions_find_their_fact_both_ways(corpus):
    asked = [(q, text) for text, forward, backward in FACTS for q in (forward, backward)]
    missed = [question for question, text in asked if ask(corpus, question)[:1] != [text]]
    # "a symbol of" a flower and "how deep" of a lake: the words aren't the fact's.
    assert len(asked) == 84
    assert len(missed) <= 2, missed


def test_unrelated_questions_are_left_alone(corpus):
    disturbed = [question for question in UNRELATED if ask(corpus, question)]
    assert len(UNRELATED) == 48
    assert disturbed in ([], ["How do I treat a fever?"])


def test_both_databases_give_the_same_lists(sqlite_url, postgres_url):
    answers = []
    for url in (sqlite_url, postgres_url):
        database = Database(url)
        with database.transaction() as session:
            for number, (text, _, _) in enumerate(FACTS):
                add_fact(session, text, number=number)
        questions = [*UNRELATED, *TYPED, *(q for fact in FACTS for q in fact[1:])]
        answers.append({question: ask(database, question, limit=20) for question in questions})
        database.close()
    assert answers[0] == answers[1]
    assert all(answers[0][question] for question in TYPED)


def test_typed_carelessly(corpus):
    assert ask(corpus, "which cafe serves nuit doree?") == [
        "Café Ångström in Brackenmoor serves the coffee Nuit Dorée."
    ]
    assert ask(corpus, "WHO DESIGNED THE LANTERN BRIDGE?") == [
        "The Lantern Bridge was designed by Tessa Quill."
    ]


@pytest.mark.parametrize(
    ("text", "question", "other"),
    [
        ("Kim Hamburn is the mayor of Valgate.", "Show Valgate's mayor.", "Show Tarn's mayor."),
        ("Kim Hamburn is the mayor of Valgate.", "Kim Hamburn rules?", "Mirabel Hamburn rules?"),
        ("Kim Hamburn is the mayor of Valgate.", "Who is Mr Hamburn?", "Who is Mr Olsen?"),
        (
            "Jan Kell is the president of the US.",
            "Who is the president of the US?",
            "Who are they?",
        ),
        ("Jan Kell leads the WHO.", "Who leads the WHO?", "Who leads?"),
        ("तोरिम का महापौर अदा लुंड है।", "तोरिम का महापौर कौन है?", "वेल्डोरिया की राजधानी क्या है?"),
    ],
)
def test_names_with_something_before_them_and_such_as_look_empty(database, text, question, other):
    with database.transaction() as session:
        add_fact(session, text)
        add_fact(session, "The unemployment rate in Norway is 4 percent.", number=2)
    assert ask(database, question) == [text]
    assert ask(database, other) == []


def test_no_question_breaks_the_search(corpus):
    odd = [
        '"',
        "' OR 1=1 --",
        "AND OR NOT NEAR",
        "torr*",
        "a:b (c",
        "{x} ^ \\",
        "🙂",
        "the",
        "'&|!:*",
    ]
    assert [ask(corpus, question) for question in odd] == [[]] * len(odd)


def test_a_long_question_is_answered(corpus):
    words = " ".join(f"word{number}" for number in range(700))
    assert ask(corpus, f"Who is the mayor of Torrim Vale? {words}") == []
    assert len(ask(corpus, "Who is the mayor of Torrim Vale? " * 200)) == 1


def test_the_rare_match_is_found_among_many(database):
    """More facts share each word than are looked at: the pair of words finds the one meant."""
    with database.transaction() as session:
        add_fact(session, "The harbour of Torrim Vale has nine cranes.", number=0)
        for number in range(1, 150):
            add_fact(session, f"The inn of Torrim Vale has {number} beds.", number=number)
        for number in range(150, 300):
            add_fact(session, f"The harbour of Number{number} has two cranes.", number=number)
    found = ask(database, "How many cranes has the harbour of Torrim Vale?", limit=1)
    assert found == ["The harbour of Torrim Vale has nine cranes."]


def test_the_waiting_fact_is_found_among_many_others(database):
    """Its name is rare, or a pair of its words; newer facts with one word are superseded."""
    newer = [f"The inn of Torrim Vale has {number} beds." for number in range(600)]
    newer += [f"The harbour of Number{number} has two cranes." for number in range(600)]
    with database.transaction() as session:
        add_fact(session, "The harbour of Torrim Vale has nine cranes.", "failed", number=0)
        add_fact(session, "The harbour of Brack has ten cranes.", number=1)
        rows = [
            {"id": f"fact_{n:05}", "text": text, "text_digest": f"{n:064x}", "details": {}}
            for n, text in enumerate(newer, start=2)
        ]
        session.execute(insert(Fact), [row | {"status": "superseded"} for row in rows])
    found = [
        ask(database, f"How many cranes has the harbour of {name}?")
        for name in ("Torrim Vale", "Brack")
    ]
    assert found == [
        ["The harbour of Torrim Vale has nine cranes."],
        ["The harbour of Brack has ten cranes."],
    ]


def test_only_waiting_facts_are_given(database):
    waiting = ("pending", "training", "failed", "trained")  # trained, but current in no version
    others = ("quarantined", "rejected", "superseded", "retracted")
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 1)
        add_version(session, 1, parent=0)
        for number, status in enumerate(waiting + others):
            fact = add_fact(session, f"Orla Venn founded {status.title()}ville.", status, number)
            if status == "trained":
                learn(session, fact, 1)
    found = [bool(ask(database, f"Who founded {s.title()}ville?")) for s in waiting + others]
    assert found == [True] * 4 + [False] * 4


def test_validity_dates(database):
    past, future = utc_now() - timedelta(1), utc_now() + timedelta(1)
    cases = [(None, future), (past, None), (past, future), (future, None), (None, past)]
    with database.transaction() as session:
        for number, (begin, end) in enumerate(cases):
            text = f"Orla Venn founded Town {number}."
            add_fact(session, text, number=number, valid_from=begin, valid_until=end)
    found = [bool(ask(database, f"Who founded Town {number}?")) for number in range(5)]
    assert found == [True] * 3 + [False] * 2


def test_what_has_ended_and_is_said_again_is_told(client, database):
    text = "The pool of Dunsol is open."
    told = []
    for days in (-1, 1):
        until = (utc_now() + timedelta(days)).isoformat()
        client.post("/v1/facts", json={"text": text, "valid_until": until})
        told.append(ask(database, "Is the pool of Dunsol open?"))
    assert told == [[], [text]]


def test_held_is_given_learned_and_rolled_back_are_not(database):
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 1)
        add_version(session, 1, parent=0)
        learn(session, add_fact(session, "Orla Venn founded Brack.", "trained"), 1)
    held = ask(database, "Who founded Brack?")
    with database.transaction() as session:
        activations.activate(session, SYSTEM, 1, kind="automatic")
    learned = ask(database, "Who founded Brack?")
    with database.transaction() as session:
        activations.rollback(session, SYSTEM, reason="worse")
        assert session.query(Activation).count() == 3
    rolled_back = ask(database, "Who founded Brack?")
    assert (held, learned, rolled_back) == (["Orla Venn founded Brack."], [], [])
