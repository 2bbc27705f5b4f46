"""Facts as versions come and go: statuses on the wire, retraction, requeue, proofs."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.db import Database, utc_now
from app.models import Activation, Audit, Checkpoint, Fact, Proof, Update, UpdateFact
from app.services import activations, checkpoints, updates
from app.services.audit import SYSTEM


@pytest.fixture
def submit(client: TestClient) -> Callable[..., str]:
    """Submits a fact by its text and returns its id."""

    def post(text: str, **more: Any) -> str:
        fact_id: str = client.post("/v1/facts", json={"text": text, **more}).json()["id"]
        return fact_id

    return post


def publish(database: Database, version: int, parent: int, fact_ids: list[str]) -> None:
    """Write what a successful update leaves: all facts proven."""
    with database.transaction() as session:
        update = Update(status="succeeded", recipe={})
        session.add(update)
        session.flush()
        row = Checkpoint(version=version, digest=f"{version:064}", kind="full", parent=parent)
        row.update_id = update.id
        session.add(row)
        session.flush()
        for fact_id in fact_ids:
            session.get_one(Fact, fact_id).status = "trained"
            session.add(UpdateFact(update_id=update.id, fact_id=fact_id, active=False, proven=True))


def activate(database: Database, version: int) -> None:
    with database.transaction() as session:
        activations.activate(session, SYSTEM, version, kind="manual", reason="test")


@pytest.fixture
def base(database: Database) -> None:
    """Version 0, current."""
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 1000)


def standing(client: TestClient, fact_id: str) -> tuple[str, int | None]:
    fact = client.get(f"/v1/facts/{fact_id}").json()
    listed = client.get("/v1/facts", params={"status": fact["status"]}).json()["data"]
    assert fact in listed
    return fact["status"], fact["version"]


@pytest.mark.usefixtures("base")
def test_status_follows_what_is_current(
    client: TestClient, database: Database, submit: Callable[..., str]
) -> None:
    first, second = submit("One."), submit("Two.")
    publish(database, 1, 0, [first])
    assert standing(client, first) == ("held", 1)
    activate(database, 1)
    assert standing(client, first) == ("learned", 1)
    publish(database, 2, 1, [second])
    activate(database, 2)
    assert standing(client, first) == ("learned", 1)
    assert standing(client, second) == ("learned", 2)
    activate(database, 1)
    assert standing(client, second) == ("rolled_back", 2)
    assert client.get("/v1/facts", params={"status": "learned"}).json()["data"][0]["id"] == first
    activate(database, 0)
    assert standing(client, first) == ("rolled_back", 1)
    # A rebuild on another path teaches it again: the version is the one that answers now.
    publish(database, 3, 0, [first])
    activate(database, 3)
    assert standing(client, first) == ("learned", 3)
    activate(database, 2)
    assert standing(client, first) == ("learned", 1)


@pytest.mark.usefixtures("base")
def test_a_learned_fact_reads_retracting_until_current_is_without_it(
    client: TestClient, database: Database, submit: Callable[..., str]
) -> None:
    fact_id = submit("One.")
    publish(database, 1, 0, [fact_id])
    activate(database, 1)
    retracted = client.delete(f"/v1/facts/{fact_id}", params={"reason": "source withdrawn"})
    assert retracted.status_code == 200
    assert retracted.json()["status"] == "retracting"
    activate(database, 0)
    assert standing(client, fact_id) == ("retracted", 1)


@pytest.mark.parametrize("status", ["pending", "failed", "quarantined"])
def test_a_waiting_fact_is_retracted_at_once_and_once(
    client: TestClient, database: Database, submit: Callable[..., str], status: str
) -> None:
    fact_id = submit("One.")
    with database.transaction() as session:
        session.get_one(Fact, fact_id).status = status
    for _ in range(2):
        response = client.delete(f"/v1/facts/{fact_id}", params={"reason": "wrong"})
        assert (response.status_code, response.json()["status"]) == (200, "retracted")
    acts = client.get("/v1/audit", params={"act": "fact.retract"}).json()["data"]
    assert [(act["subject"], act["before"], act["after"], act["reason"]) for act in acts] == [
        (fact_id, {"status": status}, {"status": "retracted"}, "wrong")
    ]
    assert submit("One.") != fact_id


@pytest.mark.usefixtures("base")
def test_retracting_in_training_stops_the_update(
    client: TestClient, database: Database, submit: Callable[..., str]
) -> None:
    gone, other = submit("One."), submit("Two.")
    with database.transaction() as session:
        update, _ = updates.open_update(session, SYSTEM)
        update.status = "running"
    assert client.delete(f"/v1/facts/{gone}").json()["status"] == "retracted"
    with database.reading() as session:
        assert session.get_one(Update, update.id).cancel_requested
        assert session.get_one(Fact, other).status == "training"
    with database.transaction() as session:  # what the runner does then
        locked = updates.lock(session, update.id)
        assert locked
        updates.cancel(session, locked)
    assert standing(client, gone) == ("retracted", None)
    assert standing(client, other) == ("pending", None)


@pytest.mark.usefixtures("base")
def test_retracting_from_a_queued_update_leaves_it_to_the_others(
    client: TestClient, database: Database, submit: Callable[..., str]
) -> None:
    gone, other = submit("One."), submit("Two.")
    with database.transaction() as session:
        update, _ = updates.open_update(session, SYSTEM)
    assert client.delete(f"/v1/facts/{gone}").json()["status"] == "retracted"
    with database.reading() as session:
        assert session.get_one(Update, update.id).status == "queued"
        assert not session.get_one(Update, update.id).cancel_requested
        assert session.get_one(Fact, other).status == "training"


def test_what_was_superseded_can_be_withdrawn_and_what_was_rejected_need_not(
    client: TestClient, database: Database, submit: Callable[..., str]
) -> None:
    old = submit("One.", key="k")
    new = submit("Two.", key="k")
    assert client.delete(f"/v1/facts/{old}").status_code == 200
    assert client.get(f"/v1/facts/{old}").json()["status"] == "retracted"
    with database.transaction() as session:
        session.get_one(Fact, new).status = "rejected"
    response = client.delete(f"/v1/facts/{new}")
    assert (response.status_code, "rejected" in response.json()["detail"]) == (409, True)


@pytest.mark.usefixtures("base")
def test_what_isnt_valid_now_is_not_trained(client: TestClient, submit: Callable[..., str]) -> None:
    early = submit("One.", valid_from=(utc_now() + timedelta(1)).isoformat())
    submit("Two.", valid_until=(utc_now() - timedelta(1)).isoformat())
    assert client.post("/v1/updates", json={}).status_code == 409
    refused = client.post("/v1/updates", json={"fact_ids": [early]})
    assert (refused.status_code, "valid" in refused.json()["detail"]) == (409, True)
    begun = submit("Three.", valid_from=(utc_now() - timedelta(1)).isoformat())
    assert client.post("/v1/updates", json={}).json()["fact_ids"] == [begun]


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("status", ["pending", "training", "failed", "lapsed", "trained"])
def test_what_is_known_takes_the_dates_that_are_said_last(
    client: TestClient, database: Database, submit: Callable[..., str], status: str
) -> None:
    past, soon, later = ((utc_now() + timedelta(days)).isoformat() for days in (-1, 1, 2))
    fact_id = submit("The pool of Dunsol is open.", valid_until=past)
    with database.transaction() as session:
        session.get_one(Fact, fact_id).status = status
    for dates in ({"valid_until": soon}, {"valid_from": soon, "valid_until": later}, {}):
        for _ in range(2):
            body = {"text": "The pool of Dunsol is open.", **dates}
            again = client.post("/v1/facts", json=body)
            assert (again.status_code, again.json()["deduplicated"]) == (200, True)
            shown = client.get(f"/v1/facts/{fact_id}").json()
            for name in ("valid_from", "valid_until"):
                assert shown[name] == (dates.get(name) and dates[name].replace("+00:00", "Z"))
    with database.reading() as session:
        assert session.get_one(Fact, fact_id).status == status
    trail = client.get("/v1/audit", params={"subject": fact_id, "order": "asc"}).json()["data"]
    assert [(act["act"], act["after"]) for act in trail[1:]] == [
        ("fact.submit", {"valid_from": None, "valid_until": soon}),
        ("fact.submit", {"valid_from": soon, "valid_until": later}),
        ("fact.submit", {"valid_from": None, "valid_until": None}),
    ]
    assert trail[1]["before"] == {"valid_from": None, "valid_until": past}


@pytest.mark.usefixtures("base")
def test_what_has_ended_and_is_said_again_is_trained(
    client: TestClient, submit: Callable[..., str]
) -> None:
    fact_id = submit("One.", valid_until=(utc_now() - timedelta(1)).isoformat())
    assert client.post("/v1/updates", json={}).status_code == 409
    assert submit("One.", valid_until=(utc_now() + timedelta(1)).isoformat()) == fact_id
    assert client.post("/v1/updates", json={}).json()["fact_ids"] == [fact_id]


@pytest.mark.usefixtures("base")
def test_failed_and_rolled_back_facts_train_again_on_request(
    client: TestClient, database: Database, submit: Callable[..., str]
) -> None:
    failed, back, pending = submit("One."), submit("Two."), submit("Three.")
    with database.transaction() as session:
        row = session.get_one(Fact, failed)
        row.status, row.tries, row.error = "failed", 3, "never proven"
    publish(database, 1, 0, [back])
    activate(database, 1)
    activate(database, 0)

    def requeue(*fact_ids: str) -> Any:
        return client.post(
            "/v1/facts/requeue", json={"fact_ids": list(fact_ids), "reason": "better recipe"}
        )

    refused = requeue(failed, pending)
    assert refused.status_code == 409
    assert refused.json()["errors"][0]["pointer"] == "/fact_ids/1"
    assert requeue(failed, "fact_unknown").status_code == 404
    assert standing(client, failed) == ("failed", None)

    done = requeue(failed, back)
    assert done.status_code == 200, done.text
    assert [fact["id"] for fact in done.json()["data"]] == [failed, back]
    assert {fact["status"] for fact in done.json()["data"]} == {"pending"}
    assert [(fact["tries"], fact["error"]) for fact in done.json()["data"]] == [(0, None)] * 2
    acts = client.get("/v1/audit", params={"act": "fact.requeue"}).json()["data"]
    assert {(act["subject"], act["reason"]) for act in acts} == {
        (failed, "better recipe"),
        (back, "better recipe"),
    }
    for body in ({"fact_ids": [failed]}, {"fact_ids": [], "reason": "x"}, {"reason": "x"}):
        assert client.post("/v1/facts/requeue", json=body).status_code == 422


@pytest.mark.usefixtures("base")
def test_a_fact_shows_its_proofs(
    client: TestClient, database: Database, submit: Callable[..., str]
) -> None:
    fact_id, other = submit("One."), submit("Two.")
    publish(database, 1, 0, [fact_id, other])
    shown = {"question": "Which?", "answers": ["One"], "direction": "forward", "origin": "given"}
    shown |= {"before": "None", "after": "One", "exact": True, "contains": True, "rouge1": 1.0}
    with database.transaction() as session:
        for owner in (fact_id, other, fact_id):
            session.add(Proof(fact_id=owner, version=1, passed=True, **shown))
    page = client.get(f"/v1/facts/{fact_id}/proofs", params={"limit": 1}).json()
    assert page["has_more"]
    assert page["data"][0].items() >= {**shown, "version": 1, "passed": True}.items()
    rest = client.get(f"/v1/facts/{fact_id}/proofs", params={"after": page["data"][0]["id"]}).json()
    assert len(rest["data"]) == 1
    assert not rest["has_more"]


def test_every_change_leaves_an_act_in_the_trail(
    client: TestClient, database: Database, submit: Callable[..., str]
) -> None:
    old = submit("One.", key="k")
    new = submit("Two.", key="k")
    trail = client.get("/v1/audit", params={"order": "asc", "limit": 100}).json()["data"]
    acts = [(act["act"], act["subject"]) for act in trail if act["act"].startswith("fact.")]
    assert acts == [("fact.submit", old), ("fact.submit", new), ("fact.supersede", old)]
    assert {act["actor"] for act in trail[1:]} == {"admin"}
    assert all(act["request_id"] for act in trail[1:])
    one = client.get("/v1/audit", params={"subject": new, "actor": "admin"}).json()["data"]
    assert [act["act"] for act in one] == ["fact.submit"]
    with database.reading() as session:
        assert len(session.scalars(select(Audit)).all()) == len(trail)
        assert session.scalar(select(Activation)) is None
