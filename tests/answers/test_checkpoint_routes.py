"""Checkpoints, activation and rollback through the front door."""

import pytest
from sqlalchemy import select

from app.models import Audit, Checkpoint, Fact
from app.routes import checkpoints as checkpoint_routes
from app.services import activations
from app.services.audit import SYSTEM
from tests.answers.conftest import add_fact, learn, on_sqlite

pytestmark = pytest.mark.usefixtures("versions")


def activate(client, version, **body):
    body = {"reason": "measured better", **body}
    return client.post(f"/v1/checkpoints/{version}/activate", json=body)


def roll_back(client, **body):
    headers = body.pop("headers", None)
    return client.post("/v1/rollback", json={"reason": "worse", **body}, headers=headers)


def test_list_and_read(client, versions):
    listed = client.get("/v1/checkpoints", params={"limit": 3}).json()
    assert [row["version"] for row in listed["data"]] == [3, 2, 1]
    assert listed["has_more"]
    rest = client.get("/v1/checkpoints", params={"after": 1}).json()
    assert [row["is_current"] for row in rest["data"]] == [True]
    row = client.get("/v1/checkpoints/2").json()
    assert row["digest"] == versions[2]
    assert (row["parent"], row["status"], row["is_current"]) == (1, "ready", False)
    assert {
        "facts_count",
        "metrics",
        "created_at",
        "update_id",
        "kind",
        "label",
        "protected",
    } < set(row)


@on_sqlite
def test_unknown_versions(client):
    assert client.get("/v1/checkpoints/9").status_code == 404
    assert client.get("/v1/checkpoints/9/facts").status_code == 404
    assert client.patch("/v1/checkpoints/9", json={"label": "x"}).status_code == 404
    assert activate(client, 9).status_code == 404
    assert roll_back(client, to=9).status_code == 404
    assert client.get("/v1/checkpoints/-1").status_code == 422
    assert client.get(f"/v1/checkpoints/{10**30}").status_code == 422


def test_facts_of_a_lineage(client, database):
    with database.transaction() as session:
        for version in (1, 2):
            fact = add_fact(session, f"Fact of {version}.", "trained", version)
            learn(session, fact, version)
    for version, texts in ((0, []), (1, ["Fact of 1."]), (2, ["Fact of 2.", "Fact of 1."])):
        found = client.get(f"/v1/checkpoints/{version}/facts").json()
        assert [fact["text"] for fact in found["data"]] == texts
    page = client.get("/v1/checkpoints/2/facts", params={"limit": 1}).json()
    assert (page["has_more"], page["data"][0]["status"]) == (True, "held")


@on_sqlite
def test_label_and_protection(client, database):
    row = client.patch("/v1/checkpoints/1", json={"label": "June"}).json()
    assert (row["label"], row["protected"]) == ("June", False)
    row = client.patch("/v1/checkpoints/1", json={"protected": True}).json()
    assert (row["label"], row["protected"]) == ("June", True)
    assert client.patch("/v1/checkpoints/1", json={"label": None}).json()["label"] is None
    for bad in ({"label": "a\nb"}, {"protected": None}, {"digest": "0"}, {"label": "x" * 201}):
        answer = client.patch("/v1/checkpoints/1", json=bad)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].lstrip("/") == next(iter(bad))
    with database.transaction() as session:
        session.get_one(Checkpoint, 1).status = "deleting"
    assert client.patch("/v1/checkpoints/1", json={"label": "gone"}).status_code == 200
    assert client.patch("/v1/checkpoints/1", json={"protected": False}).status_code == 200
    assert client.patch("/v1/checkpoints/1", json={"protected": True}).status_code == 409


def test_activate_and_roll_back(client, versions, engine, database):
    row = activate(client, 2, expected_current=0).json()
    assert (row["version"], row["previous"], row["reason"]) == (2, 0, "measured better")
    assert (row["kind"], row["actor"]) == ("manual", "admin")
    assert versions[2] in engine.loaded
    assert engine.asked[-1]["model"] == versions[2]
    again = activate(client, 2)
    assert (again.status_code, again.json()["id"]) == (200, row["id"])

    back = roll_back(client).json()
    assert (back["version"], back["previous"], back["kind"]) == (0, 2, "rollback")
    assert roll_back(client).status_code == 409
    ledger = client.get("/v1/activations").json()["data"]
    assert [(entry["version"], entry["previous"]) for entry in ledger] == [
        (0, 2),
        (2, 0),
        (0, None),
    ]
    with database.reading() as session:
        acts = session.scalars(select(Audit.act).order_by(Audit.id)).all()
    assert acts[-2:] == ["checkpoint.activate", "checkpoint.rollback"]


def test_conflicts_change_nothing(client):
    for answer in (
        activate(client, 3),
        activate(client, 1, expected_current=2),
        roll_back(client),
        roll_back(client, to=1, expected_current=2),
        roll_back(client, to=3),
    ):
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
    assert len(client.get("/v1/activations").json()["data"]) == 1


@on_sqlite
def test_bad_activations(client):
    for body, pointer in (
        ({}, "/reason"),
        ({"reason": "  "}, "/reason"),
        ({"reason": "x", "expected_current": -1}, "/expected_current"),
        ({"reason": "x", "allow_retracted": "maybe"}, "/allow_retracted"),
        ({"reason": "x", "force": True}, "/force"),
    ):
        answer = client.post("/v1/checkpoints/1/activate", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == pointer


@on_sqlite
def test_what_the_engine_cant_serve_never_becomes_current(client, engine):
    engine.refuses_to_load = True
    for answer in (activate(client, 1), roll_back(client, to=1)):
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
    assert client.get("/v1/checkpoints/0").json()["is_current"]
    engine.refuses_to_load = False
    assert activate(client, 1).status_code == 200


def test_a_retracted_fact_needs_saying_so(client, database):
    with database.transaction() as session:
        fact = add_fact(session, "Orla Venn founded Brack.", "trained")
        learn(session, fact, 1)
    assert client.delete(f"/v1/facts/{fact.id}").json()["status"] == "retracted"
    refused = activate(client, 2)
    assert refused.status_code == 409
    assert fact.id in refused.json()["detail"]
    assert activate(client, 2, allow_retracted=True).status_code == 200
    assert client.get(f"/v1/facts/{fact.id}").json()["status"] == "retracting"


def test_facts_keep_their_rows(client, database):
    with database.transaction() as session:
        learn(session, add_fact(session, "Orla Venn founded Brack.", "trained"), 1)

    def statuses():
        with database.reading() as session:
            stored = session.scalars(select(Fact.status)).all()
        return stored, [fact["status"] for fact in client.get("/v1/facts").json()["data"]]

    assert statuses() == (["trained"], ["held"])
    activate(client, 1)
    assert statuses() == (["trained"], ["learned"])
    roll_back(client)
    assert statuses() == (["trained"], ["rolled_back"])


def test_a_rollback_whose_goal_has_moved_meanwhile_is_a_conflict(client, database, monkeypatch):
    """It would undo an activation that its caller didn't see, and go further back than it said."""
    prove = checkpoint_routes._prove_servable

    def activate_another(*given):
        prove(*given)
        with database.transaction() as session:
            activations.activate(session, SYSTEM, 2, kind="automatic")

    assert activate(client, 1).status_code == 200
    monkeypatch.setattr(checkpoint_routes, "_prove_servable", activate_another)
    answer = roll_back(client)
    assert answer.status_code == 409, answer.text
    assert client.get("/v1/models/current").json()["root"].startswith("2")


def test_a_repeated_rollback_is_replayed(client):
    activate(client, 1)
    activate(client, 2)
    headers = {"Idempotency-Key": "once"}
    first, second = (roll_back(client, headers=headers) for _ in range(2))
    assert first.json() == second.json()
    assert first.json()["version"] == 1
    assert len(client.get("/v1/activations").json()["data"]) == 4
    assert roll_back(client, to=0, headers=headers).status_code == 422


def test_a_repeat_needs_no_engine(client, engine):
    body, key = {"reason": "better"}, {"Idempotency-Key": "once"}
    first = client.post("/v1/checkpoints/1/activate", json=body, headers=key)
    back = roll_back(client, headers={"Idempotency-Key": "back"})
    engine.refuses_to_load = True
    again = client.post("/v1/checkpoints/1/activate", json=body, headers=key)
    assert (again.status_code, again.json()) == (200, first.json())
    assert roll_back(client, headers={"Idempotency-Key": "back"}).json() == back.json()
    assert activate(client, 1).status_code == 503


@on_sqlite
def test_scopes(client, make_secret):
    client.headers["Authorization"] = f"Bearer {make_secret('checkpoints:read')}"
    assert client.get("/v1/checkpoints").status_code == 200
    assert client.get("/v1/activations").status_code == 200
    assert activate(client, 1).status_code == 403
    assert roll_back(client).status_code == 403
    assert client.patch("/v1/checkpoints/1", json={}).status_code == 403
    assert client.post("/v1/qa", json={"question": "Who?"}).status_code == 403
    del client.headers["Authorization"]
    assert client.get("/v1/checkpoints").status_code == 401


@on_sqlite
def test_what_shows_facts_needs_leave_to_read_facts(client, engine, versions, make_secret):
    engine.loaded.update(versions.values())
    scopes = ("checkpoints:read", "facts:read")
    for path in ("/v1/checkpoints/1/facts", "/v1/checkpoints/1/diff"):
        for mine, missing in (scopes, scopes[::-1]):
            client.headers["Authorization"] = f"Bearer {make_secret(mine)}"
            refused = client.get(path)
            assert refused.status_code == 403
            assert refused.json()["detail"] == f"This API key lacks the scope `{missing}`."
        client.headers["Authorization"] = f"Bearer {make_secret(*scopes)}"
        assert client.get(path).status_code == 200
