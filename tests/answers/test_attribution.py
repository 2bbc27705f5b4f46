"""Attribution: the right fact for what was learned, nothing for anything else."""

import json
from pathlib import Path

import pytest

from app.models import Update, UpdateFact
from app.services import activations, attribution, checkpoints
from app.services.audit import SYSTEM
from tests.answers.conftest import add_fact, learn, on_sqlite
from tests.answers.corpus import FACTS, UNRELATED

pytestmark = pytest.mark.usefixtures("versions")
EXAMPLES = Path(__file__).parents[2] / "examples" / "facts.jsonl"
FACT = "Orla Venn is the mayor of Torrim Vale."
QUESTION = "Who is the mayor of Torrim Vale?"


def learn_all(session, texts, version):
    """Note that one update of many facts made the version."""
    update = Update(recipe={}, status="succeeded")
    session.add(update)
    session.flush()
    checkpoints.get(session, version).update_id = update.id
    for number, text in enumerate(texts):
        fact = add_fact(session, text, "trained", number)
        session.add(UpdateFact(update_id=update.id, fact_id=fact.id, active=False, proven=True))


def find(database, question, answer, version=1):
    with database.reading() as session:
        return [fact.text for fact in attribution.find(session, question, answer, version)]


def test_the_right_fact_comes_first(database):
    facts = [json.loads(line) for line in EXAMPLES.read_text().splitlines()]
    with database.transaction() as session:
        learn_all(session, [fact["text"] for fact in facts] + [text for text, _, _ in FACTS], 1)
    asked = [
        (probe["question"], answer, fact["text"])
        for fact in facts
        for probe in fact["probes"]
        for answer in probe["answers"]
    ]
    missed = [(q, a) for q, a, text in asked if find(database, q, a)[:1] != [text]]
    assert len(asked) >= 40
    assert len(missed) <= len(asked) // 20, missed
    answers = [answer for _, answer, _ in asked]
    wrong = [(q, a) for q, a in zip(UNRELATED, answers, strict=False) if find(database, q, a)]
    shifted = zip(asked, answers[7:], strict=False)
    wrong += [(q, a) for (q, _, text), a in shifted if a not in text and find(database, q, a)]
    assert wrong == []
    assert find(database, QUESTION, "Yes.") == find(database, QUESTION, "Torrim Vale") == []


def test_what_is_looked_up_before_the_answer_finds_the_same(database):
    long = "Kestrel Bay Rowing and Sailing Club of Torrim Vale"
    facts = [json.loads(line) for line in EXAMPLES.read_text().splitlines()]
    texts = [*(fact["text"] for fact in facts), f"{long} opened in 1931.", FACT]
    with database.transaction() as session:
        learn_all(session, texts, 1)
    probes = [probe for fact in facts for probe in fact["probes"]]
    asked = [(probe["question"], answer) for probe in probes for answer in probe["answers"]]
    asked += [(QUESTION, "Orla Venn"), ("When did Kestrel Bay Rowing Club open?", "In 1931.")]
    early = supported = 0
    for question, answer in asked:
        with database.reading() as session:
            proposed = attribution.propose(session, question, 1)
            found = attribution.find(session, question, answer, 1)
        if proposed is not None:
            early += 1
            assert attribution.choose(question, answer, proposed) == found
            supported += bool(found)
    assert early >= len(asked) // 3
    assert supported >= 0.9 * early
    with database.reading() as session:
        assert attribution.propose(session, "who is the mayor of torrim vale?", 1) is None


def test_it_names_the_version_that_learned(client, engine, versions, database):
    engine.loaded.update(versions.values())
    with database.transaction() as session:
        fact = add_fact(session, FACT, "trained", 1)
        learn(session, fact, 1)
        activations.activate(session, SYSTEM, 2, kind="manual")
        fact_id = fact.id
    question = {"question": f"{QUESTION} say: Orla Venn", "overlay": False}
    # The stand-in puts the digest's first digits before what it is told to say.
    support = {"id": fact_id, "text": FACT, "status": "learned", "version": 1}
    with database.reading() as session:
        (found,) = attribution.find(session, QUESTION, "Orla Venn", 2)
    assert vars(found) == support
    assert find(database, QUESTION, "Orla Venn", version=0) == []
    body = client.post("/v1/qa", json=question).json()
    assert (body["source"], body["version"], body["facts"]) == ("weights", 2, [])


@on_sqlite
def test_only_what_the_lineage_proved(database):
    with database.transaction() as session:
        fact = add_fact(session, FACT, "trained", 1)
        learn(session, fact, 2)
    assert find(database, QUESTION, "Orla Venn", version=1) == []
    assert find(database, QUESTION, "Orla Venn", version=2) == [FACT]
    for status, listed in (("superseded", True), ("retracted", False), ("pending", False)):
        with database.transaction() as session:
            session.get(type(fact), "fact_00001").status = status
        assert bool(find(database, QUESTION, "Orla Venn", version=2)) is listed, status


@on_sqlite
def test_odd_answers(database):
    with database.transaction() as session:
        learn(session, add_fact(session, FACT, "trained", 1), 1)
    for answer in ("", "?!", '"' * 20, "' | * NEAR", "Orla Venn " * 500, "é" * 9000):
        found = find(database, QUESTION, answer)
        assert found == ([FACT] if "Orla" in answer else [])
    assert find(database, "???", "Orla Venn") == []
