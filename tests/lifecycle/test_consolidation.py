"""An adapter that many updates have trained becomes a root of its own, and nothing is lost."""

from fastapi.testclient import TestClient
from sqlalchemy import update

from app.config import Settings
from app.main import create_app
from app.models import Checkpoint
from app.services import keys
from app.services.audit import SYSTEM
from tests.lifecycle.conftest import Lifecycle


def learn_adapters(here: Lifecycle, *texts: str) -> list[str]:
    """Learn one fact after the other; note that each version is an adapter over the base."""
    ids = [fact_id for text in texts for fact_id in here.learn(text)]
    with here.database.transaction() as session:
        adapters = update(Checkpoint).where(Checkpoint.version > 0)
        session.execute(adapters.values(kind="adapter", root=0))
    return ids


def client_of(here: Lifecycle, **settings: object) -> TestClient:
    with here.database.transaction() as session:
        secret = keys.create(session, SYSTEM, "admin", ("admin",))[1]
    chosen = Settings(**{**here.settings.model_dump(exclude_unset=True), **settings})
    return TestClient(create_app(chosen), headers={"Authorization": f"Bearer {secret}"})


def test_it_is_due_after_so_many_updates_of_one_adapter(here: Lifecycle) -> None:
    ids = learn_adapters(here, "One", "Two")
    here.dispatcher(consolidate_after=3).tick()
    assert here.look() == []
    for _ in range(2):
        here.dispatcher(consolidate_after=2).tick()
    (opened,) = here.look()
    assert (opened.kind, opened.recipe["method"]) == ("consolidate", "full")

    done = here.run(opened)
    assert (done.status, done.outcome, done.parent) == ("succeeded", "activated", 2)
    assert here.current() == 3
    made = here.checkpoint(3)
    assert (made.kind, made.root, made.facts_count) == ("full", None, 2)
    assert here.standings(*ids) == ["learned", "learned"]
    here.dispatcher(consolidate_after=1).tick()
    assert here.look() == [], "what is current is a root now"


def test_one_that_was_held_is_not_tried_again(here: Lifecycle) -> None:
    learn_adapters(here, "One", "Two")
    with client_of(here) as client:
        body = {"kind": "consolidate", "activation": "manual"}
        answer = client.post("/v1/updates", json=body)
        assert (answer.status_code, answer.json()["fact_ids"]) == (202, [])
        assert client.post("/v1/updates", json=body).status_code == 409
        (opened,) = here.look()
        assert here.run(opened).outcome == "held"
        here.dispatcher(consolidate_after=1).tick()
        assert here.look() == []
        here.activate(3)
        refused = client.post("/v1/updates", json=body)
        assert (refused.status_code, refused.json()["detail"]) == (
            409,
            "The current version is no adapter: there is nothing to merge.",
        )


def test_a_cancelled_one_is_not_opened_again_by_itself(here: Lifecycle) -> None:
    learn_adapters(here, "One")
    here.dispatcher(consolidate_after=1).tick()
    (opened,) = here.look()
    with client_of(here) as client:
        assert client.post(f"/v1/updates/{opened.id}/cancel").status_code == 200
    here.dispatcher(consolidate_after=1).tick()
    assert here.look() == []


def test_it_merges_the_version_that_it_was_opened_for_or_nothing(here: Lifecycle) -> None:
    learn_adapters(here, "One", "Two")
    here.dispatcher(consolidate_after=2).tick()
    (opened,) = here.look()
    here.activate(0)
    assert here.run(opened).status == "queued"
    here.dispatcher(consolidate_after=2).tick()
    ended = here.deployment.update(opened.id)
    assert (ended.status, ended.error["type"]) == ("cancelled", "stale")
    assert here.current() == 0


def test_it_fails_after_three_attempts_and_takes_no_facts(here: Lifecycle) -> None:
    learn_adapters(here, "One")
    with client_of(here) as client:
        named = client.post("/v1/updates", json={"kind": "consolidate", "fact_ids": ["fact_1"]})
        assert (named.status_code, named.json()["errors"][0]["pointer"]) == (422, "/fact_ids")
        update_id = client.post("/v1/updates", json={"kind": "consolidate"}).json()["id"]
        (here.settings.store / "broken").touch()
        for _ in range(3):
            here.deployment.run_here(update_id)
        failed = client.get(f"/v1/updates/{update_id}").json()
        assert (failed["status"], failed["attempt"]) == ("failed", 3)
        assert failed["error"]["continued_by"] == []
        assert client.post(f"/v1/updates/{update_id}/retry").status_code == 409
    assert here.current() == 1


def test_vllm_cannot_change_its_root(here: Lifecycle) -> None:
    learn_adapters(here, "One", "Two")
    with client_of(here, engine_kind="vllm") as client:
        refused = client.post("/v1/updates", json={"kind": "consolidate"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/kind")
    here.dispatcher(consolidate_after=1, engine_kind="vllm").tick()
    assert here.look() == []
