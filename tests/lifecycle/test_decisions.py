"""A source withdrawn in one go, quarantined facts reviewed: through the front door."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.models import Fact, Update
from app.services import keys, runs
from app.services.audit import SYSTEM
from tests.app.conftest import wait_until_blocked
from tests.lifecycle.conftest import Lifecycle


@pytest.fixture
def client(here: Lifecycle) -> Iterator[TestClient]:
    """A client with an administrator's key."""
    with here.database.transaction() as session:
        secret = keys.create(session, SYSTEM, "test", ["admin"])[1]
    headers = {"Authorization": f"Bearer {secret}"}
    with TestClient(create_app(here.settings), headers=headers) as client:
        yield client


def acts(client: TestClient, act: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/v1/audit", params={"act": act, "limit": 100}).json()[
        "data"
    ]
    return found


def test_a_source_is_retracted_in_one_go(here: Lifecycle, client: TestClient) -> None:
    learned = here.learn("One", "Two", source="gossip")
    (trusted,) = here.learn("Three", source="register")
    waiting = here.submit("Four", source="gossip")
    training = here.submit("Five", source="gossip")
    beside = here.submit("Six")
    running = here.deployment.open(fact_ids=[*training, *beside])
    with here.database.transaction() as session:
        session.get_one(Update, running).status = "running"
    body = {"source": "gossip", "reason": "unreliable"}
    answer = client.post("/v1/facts/retract", json=body)
    assert (answer.status_code, answer.json()) == (
        200,
        {"object": "retraction", "source": "gossip", "retracted": 4},
    )
    assert here.standings(*learned, *waiting, *training) == ["retracting"] * 2 + ["retracted"] * 2
    assert here.standings(trusted, *beside) == ["learned", "training"]
    assert here.deployment.update(running).cancel_requested
    trail = acts(client, "fact.retract")
    assert {act["subject"] for act in trail} == {*learned, *waiting, *training}
    assert {(act["reason"], act["actor"]) for act in trail} == {("unreliable", "test")}
    (whole,) = acts(client, "fact.retract_source")
    assert whole["after"] == {"source": "gossip", "facts": 4}
    assert client.post("/v1/facts/retract", json=body).json()["retracted"] == 0
    for bad in ({"source": "x"}, {"reason": "x"}, {"source": "", "reason": "x"}):
        assert client.post("/v1/facts/retract", json=bad).status_code == 422


def test_a_source_is_retracted_from_an_update_that_is_being_claimed(
    here: Lifecycle, client: TestClient
) -> None:
    fact_ids = here.submit("One", source="gossip")
    opened = here.deployment.open(fact_ids=fact_ids)
    body = {"source": "gossip", "reason": "unreliable"}
    with ThreadPoolExecutor(1) as pool:
        with here.database.transaction() as session:
            assert runs.claim(session, opened, "here", 60)
            answer = pool.submit(client.post, "/v1/facts/retract", json=body)
            wait_until_blocked(here.database, answer)
        assert answer.result().json()["retracted"] == 1
    assert here.deployment.update(opened).cancel_requested
    assert here.standings(*fact_ids) == ["retracted"]


def test_quarantined_facts_are_reviewed_all_or_none(here: Lifecycle, client: TestClient) -> None:
    good, bad, pending = here.submit("One", "Two", "Three")
    with here.database.transaction() as session:
        for fact_id in (good, bad):
            session.get_one(Fact, fact_id).status = "quarantined"

    def review(decision: str, *fact_ids: str) -> Any:
        body = {"fact_ids": list(fact_ids), "decision": decision, "reason": "checked"}
        return client.post("/v1/facts/review", json=body)

    refused = review("approve", good, pending)
    assert refused.status_code == 409
    assert refused.json()["errors"][0]["pointer"] == "/fact_ids/1"
    assert review("approve", good, "fact_nobody").status_code == 404
    assert review("maybe", good).status_code == 422
    assert here.standings(good, bad) == ["quarantined"] * 2
    assert review("approve", good).json()["data"][0]["status"] == "pending"
    rejected = review("reject", bad).json()["data"][0]
    assert (rejected["status"], rejected["error"]) == ("rejected", "checked")
    assert review("approve", bad).status_code == 409
    assert [(act["subject"], act["after"]["status"]) for act in acts(client, "fact.review")] == [
        (bad, "rejected"),
        (good, "pending"),
    ]


def test_a_fact_that_a_rebuild_teaches_is_not_requeued(here: Lifecycle, client: TestClient) -> None:
    gone, kept = here.learn("One", "Two")
    here.retract(gone)
    (rebuild,) = here.look()
    assert rebuild.kind == "rebuild"
    here.activate(0)
    body = {"fact_ids": [kept], "reason": "again"}
    assert here.standings(kept) == ["rolled_back"]
    assert client.post("/v1/facts/requeue", json=body).status_code == 409
    assert here.look() == []  # the plan was for another version
    assert client.post("/v1/facts/requeue", json=body).status_code == 200
