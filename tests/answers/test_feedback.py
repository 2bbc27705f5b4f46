"""Feedback: stored, audited; a correction waits for review and answers nothing until then."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.models import Audit, Fact, Feedback
from tests.answers.conftest import add_fact, on_sqlite

pytestmark = pytest.mark.usefixtures("versions")
QUESTION = "Who keeps the lighthouse of Brannoc Head?"
CORRECTION = "The lighthouse of Brannoc Head is kept by Ilse Varga."
WRONG = {
    "question": QUESTION,
    "answer": "Odo Lanark",
    "version": 1,
    "correct": False,
    "correction": CORRECTION,
}


def test_a_correction_is_quarantined(client, database):
    answer = client.post("/v1/feedback", json=WRONG)
    assert answer.status_code == 201
    body = answer.json()
    assert {name: body[name] for name in WRONG} == WRONG
    assert body["fact_status"] == "quarantined"
    fact = client.get(f"/v1/facts/{body['fact_id']}").json()
    assert (fact["text"], fact["source"], fact["status"]) == (CORRECTION, "feedback", "quarantined")
    with database.reading() as session:
        stored = session.scalars(select(Feedback)).one()
        assert (stored.id, stored.fact_id, stored.version) == (body["id"], body["fact_id"], 1)
        act = session.scalars(select(Audit).where(Audit.act == "feedback.give")).one()
        assert (act.subject, act.actor) == (body["id"], "admin")
        assert act.after == {"version": 1, "correct": False, "fact": body["fact_id"]}
    found = client.post("/v1/qa", json={"question": QUESTION}).json()
    assert (found["source"], found["facts"]) == ("weights", [])


def test_whoever_may_submit_facts_puts_a_quarantined_one_in_line(client, database):
    held = client.post("/v1/feedback", json=WRONG).json()["fact_id"]
    probe = {"question": QUESTION, "answers": ["Ilse Varga"], "direction": "backward"}
    posted = client.post("/v1/facts", json={"text": CORRECTION, "source": "x", "probes": [probe]})
    fact = posted.json()
    assert (posted.status_code, fact["id"], fact["status"]) == (201, held, "pending")
    assert (fact["source"], len(fact["probes"])) == ("x", 1)
    found = client.post("/v1/qa", json={"question": QUESTION}).json()
    assert [given["id"] for given in found["facts"]] == [held]
    with database.reading() as session:
        assert len(session.scalars(select(Fact)).all()) == 1


def test_a_correction_that_is_known_changes_nothing(client, database):
    with database.transaction() as session:
        known = add_fact(session, "Nothing of note.").id
    fact_id = client.post("/v1/facts", json={"text": CORRECTION}).json()["id"]
    for _ in range(2):
        body = client.post("/v1/feedback", json=WRONG).json()
        assert (body["fact_id"], body["fact_status"]) == (fact_id, "pending")
    with database.reading() as session:
        assert set(session.scalars(select(Fact.id))) == {known, fact_id}
        assert len(session.scalars(select(Feedback)).all()) == 2


def test_blame_of_an_answer_without_words(client):
    answer = client.post("/v1/feedback", json={**WRONG, "answer": " "})
    assert (answer.status_code, answer.json()["answer"]) == (201, "")


def test_praise_and_blame_without_a_correction(client, database):
    for correct in (True, False):
        told = {**WRONG, "correct": correct, "correction": None}
        answer = client.post("/v1/feedback", json=told)
        assert answer.status_code == 201
        assert answer.json()["fact_id"] is answer.json()["fact_status"] is None
    with database.reading() as session:
        assert session.scalars(select(Fact)).all() == []


def test_a_repeat_is_replayed(client, database):
    first, second = (
        client.post("/v1/feedback", json=WRONG, headers={"Idempotency-Key": "f-1"})
        for _ in range(2)
    )
    assert second.headers["Idempotency-Replayed"] == "true"
    assert first.json() == second.json()
    with database.reading() as session:
        assert len(session.scalars(select(Feedback)).all()) == 1


@on_sqlite
@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"question": " "}, "/question"),
        ({"question": "a" * 9000}, "/question"),
        ({"answer": "bell \x07"}, "/answer"),
        ({"answer": "a" * 40_000}, "/answer"),
        ({"version": 9}, "/version"),
        ({"version": -1}, "/version"),
        ({"version": None}, "/version"),
        ({"correct": "perhaps"}, "/correct"),
        ({"correct": True}, "/correction"),
        ({"correction": ""}, "/correction"),
        ({"correction": "a" * 9000}, "/correction"),
        ({"fact": "x"}, "/fact"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(client, database, change, pointer):
    answer = client.post("/v1/feedback", json={**WRONG, **change})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["pointer"] == pointer
    with database.reading() as session:
        assert session.scalars(select(Feedback)).all() == []
        assert session.scalars(select(Fact)).all() == []


@on_sqlite
def test_it_needs_the_scope(client: TestClient, make_secret):
    for scope, status in (("qa", 201), ("facts:write", 403)):
        headers = {"Authorization": f"Bearer {make_secret(scope)}"}
        assert client.post("/v1/feedback", json=WRONG, headers=headers).status_code == status
