"""POST /v1/qa: bound to one version, helped by waiting facts, honest about both."""

import json
import threading

import pytest
from sqlalchemy import text

from app.services import activations
from app.services.audit import SYSTEM
from tests.answers.conftest import add_fact, add_version, learn, on_sqlite
from tests.answers.standin import refusal
from tests.e2e.service import wait_until

pytestmark = pytest.mark.usefixtures("versions")
QUESTION = "Who is the mayor of Torrim Vale?"
FACT = "Orla Venn is the mayor of Torrim Vale."


def ask(client, question=QUESTION, **body):
    return client.post("/v1/qa", json={"question": question, **body})


@pytest.fixture
def waiting(database):
    with database.transaction() as session:
        return add_fact(session, FACT).id


@on_sqlite
def test_from_the_weights(client, versions):
    answer = ask(client)
    assert answer.status_code == 200
    assert answer.headers["X-Model-Version"] == "0"
    body = answer.json()
    assert body["answer"] == f"{'0' * 12} answers: {QUESTION}"
    assert (body["version"], body["checkpoint"]) == (0, versions[0])
    assert (body["source"], body["facts"]) == ("weights", [])
    assert body["id"].startswith("answer_")
    assert body["latency_ms"] >= 0


def test_a_submitted_fact_is_given_at_once(client, engine):
    fact = client.post("/v1/facts", json={"text": FACT}).json()
    body = ask(client).json()
    assert body["source"] == "overlay"
    assert body["facts"] == [{"id": fact["id"], "text": FACT, "status": "pending", "version": None}]
    assert FACT in engine.asked[-1]["messages"][0]["content"]
    client.delete(f"/v1/facts/{fact['id']}")
    assert ask(client).json()["source"] == "weights"


@pytest.mark.usefixtures("waiting")
@on_sqlite
def test_overlay_on_and_off(client, versions, engine):
    engine.loaded.add(versions[1])
    sources = [
        ask(client, **body).json()["source"]
        for body in ({"overlay": False}, {"version": 1}, {"version": 1, "overlay": True})
    ]
    assert sources == ["weights", "weights", "overlay"]


def test_learned_held_and_rolled_back(client, versions, engine, database):
    engine.loaded.update(versions.values())
    with database.transaction() as session:
        learn(session, add_fact(session, FACT, "trained"), 1)
    held = ask(client).json()
    assert (held["source"], held["facts"][0]["status"]) == ("overlay", "held")
    with database.transaction() as session:
        activations.activate(session, SYSTEM, 1, kind="automatic")
    learned = ask(client).json()
    assert (learned["source"], learned["version"]) == ("weights", 1)
    with database.transaction() as session:
        activations.rollback(session, SYSTEM, reason="worse")
    back = ask(client).json()
    assert (back["source"], back["version"]) == ("weights", 0)


def test_learned_facts_are_named_with_their_version(client, versions, engine, database):
    """Also where the question has no names, so that they are only found by the answer."""
    engine.loaded.update(versions.values())
    engine.says[versions[2]] = "Orla Venn"
    with database.transaction() as session:
        fact = add_fact(session, FACT, "trained")
        learn(session, fact, 1)
        activations.activate(session, SYSTEM, 2, kind="manual", reason="next")
    supported = {"id": fact.id, "text": FACT, "status": "learned", "version": 1}
    for question in (QUESTION, QUESTION.lower()):
        body = ask(client, question).json()
        assert (body["source"], body["answer"]) == ("weights", "Orla Venn")
        assert body["facts"] == [supported], question
    engine.says[versions[2]] = "Somebody"
    assert ask(client).json()["facts"] == []


@on_sqlite
def test_pins(client, versions, engine, database):
    with database.transaction() as session:
        add_version(session, 4, 0, "deleted")
        add_version(session, 5, 0, "deleting")
    engine.loaded.add(versions[2])
    assert ask(client, version=2).json()["checkpoint"] == versions[2]
    assert ask(client, version=2).headers["X-Model-Version"] == "2"
    statuses = {version: ask(client, version=version).status_code for version in (9, 4, 5, 3, 1)}
    assert statuses == {9: 404, 4: 404, 5: 404, 3: 409, 1: 503}
    assert ask(client, version=1).headers["Retry-After"] == "1"
    for wrong in (-1, 2**31, "v7", 1.5):
        answer = ask(client, version=wrong)
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["errors"][0]["pointer"] == "/version"
    assert {question["model"] for question in engine.asked} == {versions[1], versions[2]}


def test_bound_for_the_whole_request(client, versions, engine, database):
    """A version that becomes current while the engine computes changes nothing for this answer."""
    engine.loaded.add(versions[1])
    engine.gate.clear()
    answers = []
    asker = threading.Thread(target=lambda: answers.append(ask(client, "say: slowly now")))
    asker.start()
    assert engine.waiting.wait(10)
    with database.transaction() as session:
        activations.activate(session, SYSTEM, 1, kind="manual", reason="meanwhile")
    engine.gate.set()
    asker.join()
    assert answers[0].json()["answer"] == f"{'0' * 12} answers: slowly now"
    assert answers[0].json()["version"] == 0
    assert ask(client).json()["version"] == 1


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
def test_what_the_last_question_was_bound_to_is_asked_early(client, engine, database):
    ask(client, "say: first")
    answers = []
    asker = threading.Thread(target=lambda: answers.append(ask(client, "say: second")))
    with database.transaction() as session:
        session.execute(text("LOCK TABLE facts IN ACCESS EXCLUSIVE MODE"))
        asker.start()
        wait_until(lambda: len(engine.asked) == 2, 10)
        assert not answers
    asker.join()
    assert answers[0].json()["answer"] == f"{'0' * 12} answers: second"
    assert len(engine.asked) == 2


def test_a_wrong_guess_is_nobodys_answer(client, versions, engine, database):
    engine.loaded.update(versions.values())
    for current in (0, 1, 2, 1):
        if current:
            with database.transaction() as session:
                activations.activate(session, SYSTEM, current, kind="manual", reason="next")
        for _ in range(2):
            body = ask(client, "say: this").json()
            told = (body["version"], body["checkpoint"], body["answer"])
            assert told == (current, versions[current], f"{str(current) * 12} answers: this")
    client.post("/v1/facts", json={"text": FACT})
    assert FACT in ask(client).json()["answer"]
    assert ask(client, "say: that", version=2).json()["answer"] == f"{'2' * 12} answers: that"
    engine.failure = refusal(503, "full", "overloaded")
    assert ask(client, "say: this").status_code == 503


def test_no_transaction_is_open_while_the_engine_computes(client, engine):
    """On SQLite a reader would hold the old state, on Postgres a connection in a transaction."""
    engine.gate.clear()
    asker = threading.Thread(target=ask, args=(client, "say: slowly now"))
    asker.start()
    assert engine.waiting.wait(10)
    pool = client.app.state.database.engine.pool
    # The engine is asked while what supports the answer is still looked up.
    wait_until(lambda: pool.checkedout() == 0, 10)
    engine.gate.set()
    asker.join()


@pytest.mark.usefixtures("waiting")
@on_sqlite
def test_facts_too_long_for_the_context_are_left_out(client, engine):
    engine.longest = 100
    body = ask(client).json()
    assert (body["source"], body["facts"]) == ("weights", [])
    assert len(engine.asked) == 2
    engine.longest = 10
    assert ask(client).status_code == 422


@on_sqlite
def test_the_engine_is_down_or_full(client, engine):
    engine.failure = refusal(503, "full", "overloaded", **{"Retry-After": "7"})
    answer = ask(client)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "7")


@on_sqlite
def test_max_tokens(client, engine):
    assert ask(client, "say: one two three", max_tokens=3).json()["answer"].endswith("answers: one")
    assert engine.asked[-1]["max_tokens"] == 3
    for wrong in (0, -1, 51, "many", 1.5):
        answer = ask(client, max_tokens=wrong)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/max_tokens"


@on_sqlite
def test_bad_questions(client, engine):
    for bad in ("", "  \n ", "a\x00b", "a\x1bb", "é" * 4097, "\ud800", 7, None, ["a"]):
        body = json.dumps({"question": bad})  # ASCII, so that half a surrogate pair gets through
        answer = client.post("/v1/qa", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, bad
        assert answer.json()["errors"][0]["pointer"] == "/question", (bad, answer.text)
    large = client.post("/v1/qa", json={"question": "x" * 2**20})
    assert (large.status_code, large.headers["Content-Type"]) == (413, "application/problem+json")
    assert engine.asked == []


@on_sqlite
def test_odd_but_fine_questions(client, engine):
    assert ask(client, "  two\r\nlines <|im_start|>system \t").status_code == 200
    assert engine.asked[-1]["messages"][0]["content"] == "two\nlines <|im_start|>system"
    assert ask(client, "é" * 4096).status_code == 200
    assert ask(client, version=None, overlay=None).status_code == 200
    assert ask(client, colour="red").json()["errors"][0]["pointer"] == "/colour"
