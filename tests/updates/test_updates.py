import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete

from app.config import Settings
from app.db import Database
from app.main import create_app
from app.models import Activation, Checkpoint
from app.recipe import default_recipe
from app.services import runs
from app.services.runs import Run

Submit = Callable[[int], list[str]]
pytestmark = pytest.mark.usefixtures("base")


def statuses(client: TestClient, ids: list[str]) -> list[str]:
    return [client.get(f"/v1/facts/{fact_id}").json()["status"] for fact_id in ids]


def claim(database: Database, update_id: str) -> Run:
    with database.transaction() as session:
        run = runs.claim(session, update_id, "worker", lease_s=60)
    assert run is not None
    return run


def messages(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("broker/messages/*"))


def test_an_update_takes_the_oldest_pending_facts(
    client: TestClient, submit: Submit, tmp_path: Path
) -> None:
    ids = submit(7)
    answer = client.post("/v1/updates")
    assert answer.status_code == 202, answer.text
    update = answer.json()
    assert update.pop("id").startswith("update_")
    assert update.pop("created_at")
    recipe = update.pop("recipe")
    assert (recipe["objective"], recipe["method"]) == ("masked", "full")
    assert update == {
        "object": "update",
        "kind": "learn",
        "status": "queued",
        "phase": None,
        "outcome": None,
        "reasons": [],
        "progress": dict.fromkeys(("step", "total_steps", "percent", "eta_s", "loss")),
        "version": None,
        "parent": None,
        "fact_ids": ids[:5],
        "activation": "auto",
        "error": None,
        "cancel_requested": False,
        "attempt": 0,
        "started_at": None,
        "finished_at": None,
    }
    assert statuses(client, ids) == ["training"] * 5 + ["pending"] * 2
    assert len(messages(tmp_path)) == 1


def test_the_defaults_follow_the_size_of_the_base_model(
    client: TestClient, submit: Submit, database: Database
) -> None:
    with database.transaction() as session:
        metrics = {"parameters": 7_000_000_000, "architecture": "causal"}
        session.get_one(Checkpoint, 0).metrics = metrics
    submit(1)
    recipe = client.post("/v1/updates").json()["recipe"]
    chosen = {name: recipe[name] for name in ("method", "trained", "lr", "protection")}
    assert chosen == {"method": "lora", "trained": "all", "lr": 1e-4, "protection": 0.0}


def test_the_objective_follows_the_kind_of_the_base_model(
    client: TestClient, submit: Submit, database: Database
) -> None:
    with database.transaction() as session:
        metrics = {"parameters": 1_000_000, "architecture": "diffusion"}
        session.get_one(Checkpoint, 0).metrics = metrics
    ids = submit(1)
    refused = client.post("/v1/updates", json={"recipe": {"objective": "masked"}})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/recipe/objective"
    assert statuses(client, ids) == ["pending"]
    assert client.post("/v1/updates").json()["recipe"]["objective"] == "diffusion"


def test_named_facts_and_a_partial_recipe(client: TestClient, submit: Submit) -> None:
    ids = submit(3)
    wish = {
        "fact_ids": [ids[2], ids[0], ids[2]],
        "recipe": {"lr": 0.001, "objective": "causal"},
        "activation": "manual",
    }
    update = client.post("/v1/updates", json=wish).json()
    assert update["fact_ids"] == [ids[0], ids[2]]
    assert (update["recipe"]["lr"], update["recipe"]["objective"]) == (0.001, "causal")
    assert update["recipe"]["epochs"] == default_recipe(1_000_000).epochs
    assert update["activation"] == "manual"
    assert statuses(client, ids) == ["training", "pending", "training"]


def test_a_wished_method_brings_its_own_learning_rate(client: TestClient, submit: Submit) -> None:
    for fact_id, lr, more in zip(submit(2), (3e-3, 1e-3), ({}, {"lr": 1e-3}), strict=True):
        wish = {"fact_ids": [fact_id], "recipe": {"method": "lora", **more}}
        recipe = client.post("/v1/updates", json=wish).json()["recipe"]
        assert (recipe["method"], recipe["lr"]) == ("lora", lr)


def test_a_bad_wish_is_named_and_changes_nothing(client: TestClient, submit: Submit) -> None:
    free, held = submit(2)
    taken = client.post("/v1/updates", json={"fact_ids": [held]}).json()
    bad: list[tuple[dict[str, object], int, str]] = [
        ({"recipe": {"learning_rate": 1}}, 422, "/recipe/learning_rate"),
        ({"recipe": {"epochs": 0}}, 422, "/recipe/epochs"),
        ({"recipe": {"seed": 2**63}}, 422, "/recipe/seed"),
        ({"recipe": {"objective": "magic"}}, 422, "/recipe/objective"),
        ({"activation": "maybe"}, 422, "/activation"),
        ({"fact_ids": []}, 422, "/fact_ids"),
        ({"fact_ids": [free, "fact_nobody"]}, 422, "/fact_ids/1"),
        ({"fact_ids": [free, held]}, 409, "/fact_ids/1"),
        ({"fact_ids": [f"fact_{n}" for n in range(6)]}, 422, "/fact_ids"),
        ({"facts": []}, 422, "/facts"),
    ]
    for body, status, pointer in bad:
        answer = client.post("/v1/updates", json=body)
        assert answer.status_code == status, answer.text
        assert answer.json()["errors"][0]["pointer"] == pointer
    head = {"Content-Type": "application/json"}
    endless = client.post("/v1/updates", content='{"recipe": {"lr": Infinity}}', headers=head)
    assert (endless.status_code, endless.json()["errors"][0]["pointer"]) == (422, "/recipe/lr")
    assert statuses(client, [free, held]) == ["pending", "training"]
    assert [row["id"] for row in client.get("/v1/updates").json()["data"]] == [taken["id"]]


def test_with_nothing_pending_the_live_update_is_the_answer(
    client: TestClient, submit: Submit, tmp_path: Path
) -> None:
    nothing = client.post("/v1/updates")
    assert nothing.status_code == 409
    assert not messages(tmp_path)
    submit(1)
    first = client.post("/v1/updates").json()
    again = client.post("/v1/updates")
    assert (again.status_code, again.json()["id"]) == (200, first["id"])


def test_openers_that_race_take_each_fact_once(client: TestClient, submit: Submit) -> None:
    ids = submit(8)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/updates"), range(6)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    opened = [answer.json() for answer in answers if answer.status_code == 202]
    taken = [fact_id for update in opened for fact_id in update["fact_ids"]]
    assert len(taken) == len(set(taken))
    for _ in range(2):
        client.post("/v1/updates")
    assert statuses(client, ids) == ["training"] * 8


def test_a_queued_update_is_cancelled_at_once(client: TestClient, submit: Submit) -> None:
    ids = submit(2)
    update_id = client.post("/v1/updates").json()["id"]
    answer = client.post(f"/v1/updates/{update_id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["finished_at"]
    assert statuses(client, ids) == ["pending", "pending"]
    assert client.post(f"/v1/updates/{update_id}/cancel").status_code == 409
    assert client.post("/v1/updates").json()["fact_ids"] == ids


def test_a_running_update_is_asked_to_stop(
    client: TestClient, submit: Submit, database: Database
) -> None:
    ids = submit(1)
    update_id = client.post("/v1/updates").json()["id"]
    run = claim(database, update_id)
    for _ in range(2):
        answer = client.post(f"/v1/updates/{update_id}/cancel").json()
        assert (answer["status"], answer["cancel_requested"]) == ("running", True)
    assert statuses(client, ids) == ["training"]
    with database.transaction() as session:
        assert runs.heartbeat(session, run, 60) is True
        runs.release(session, run, "worker_stopped")
    assert client.get(f"/v1/updates/{update_id}").json()["status"] == "cancelled"
    assert statuses(client, ids) == ["pending"]


def test_a_failed_update_is_retried_with_what_still_waits(
    client: TestClient, submit: Submit, database: Database, settings: Settings
) -> None:
    ids = submit(1)
    first = client.post("/v1/updates", json={"recipe": {"lr": 0.01}}).json()
    assert client.post(f"/v1/updates/{first['id']}/retry").status_code == 409
    for _ in range(3):
        run = claim(database, first["id"])
        with database.transaction() as session:
            runs.fail(session, run, {"type": "died", "detail": "Exit status 1."})
    failed = client.get(f"/v1/updates/{first['id']}").json()
    assert (failed["status"], failed["attempt"]) == ("failed", 3)
    why = {"type": "died", "detail": "Exit status 1."}
    assert failed["error"] == {**why, "fact_ids": [], "continued_by": []}
    fact = client.get(f"/v1/facts/{ids[0]}").json()
    assert (fact["status"], fact["error"]) == ("failed", "Exit status 1.")

    # What failed under our engine may be nothing that vLLM could serve.
    vllm = create_app(settings.model_copy(update={"engine_kind": "vllm"}))
    with TestClient(vllm, headers=client.headers) as other:
        refused = other.post(f"/v1/updates/{first['id']}/retry")
    assert (refused.status_code, "adapters only" in refused.text) == (422, True)
    assert statuses(client, ids) == ["failed"]

    answer = client.post(f"/v1/updates/{first['id']}/retry")
    assert answer.status_code == 202, answer.text
    assert answer.json()["fact_ids"] == ids
    assert answer.json()["recipe"]["lr"] == 0.01
    assert statuses(client, ids) == ["training"]
    assert client.post(f"/v1/updates/{first['id']}/retry").status_code == 409


def test_updates_are_listed_in_pages(client: TestClient, submit: Submit) -> None:
    ids = submit(3)
    opened = [
        client.post("/v1/updates", json={"fact_ids": [fact_id]}).json()["id"] for fact_id in ids
    ]
    client.post(f"/v1/updates/{opened[0]}/cancel")
    page = client.get("/v1/updates", params={"limit": 2}).json()
    assert [row["id"] for row in page["data"]] == [opened[2], opened[1]]
    assert page["has_more"] is True
    rest = client.get("/v1/updates", params={"limit": 2, "after": opened[1]}).json()
    assert ([row["id"] for row in rest["data"]], rest["has_more"]) == ([opened[0]], False)
    cancelled = client.get("/v1/updates", params={"status": "cancelled"}).json()
    assert [row["fact_ids"] for row in cancelled["data"]] == [[ids[0]]]


def test_unknown_updates_and_missing_scopes(
    client: TestClient, submit: Submit, make_key: Callable[..., dict[str, str]]
) -> None:
    for path in ("", "/events"):
        assert client.get(f"/v1/updates/update_nobody{path}").status_code == 404
    for path in ("cancel", "retry"):
        assert client.post(f"/v1/updates/update_nobody/{path}").status_code == 404
    submit(1)
    reader, writer = make_key("updates:read"), make_key("updates:write")
    assert client.post("/v1/updates", headers=reader).status_code == 403
    update_id = client.post("/v1/updates", headers=writer).json()["id"]
    assert client.post(f"/v1/updates/{update_id}/cancel", headers=reader).status_code == 403
    for path in ("", f"/{update_id}", f"/{update_id}/events"):
        assert client.get(f"/v1/updates{path}", headers=writer).status_code == 403
        assert client.get(f"/v1/updates{path}", headers=reader).status_code == 200


def test_a_repeated_request_opens_one_update(client: TestClient, submit: Submit) -> None:
    submit(7)
    headers = {"Idempotency-Key": "evening-batch"}
    first = client.post("/v1/updates", headers=headers)
    again = client.post("/v1/updates", headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    assert len(client.get("/v1/updates").json()["data"]) == 1


def test_a_broker_that_never_answers_holds_nobody_up(
    settings: Settings, client: TestClient, submit: Submit
) -> None:
    submit(1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        mute = settings.model_copy(update={"broker_url": url})
        with TestClient(create_app(mute), headers=dict(client.headers)) as other:
            began = time.monotonic()
            assert other.post("/v1/updates").status_code == 202
    # Under a second on an idle machine; without timeouts of its own it would take for ever.
    assert time.monotonic() - began < 20


class TestEvents:
    @pytest.fixture
    def update_id(self, client: TestClient, submit: Submit) -> str:
        submit(1)
        return str(client.post("/v1/updates").json()["id"])

    def test_are_listed(self, client: TestClient, update_id: str, database: Database) -> None:
        run = claim(database, update_id)
        told = {"phase": "training", "step": 5, "total_steps": 20, "loss": 1.5, "eta_s": 3}
        with database.transaction() as session:
            runs.report(session, run, told)
        events = client.get(f"/v1/updates/{update_id}/events").json()
        assert [event["type"] for event in events["data"]] == ["queued", "started", "progress"]
        assert events["data"][2]["data"] == told
        assert events["has_more"] is False
        update = client.get(f"/v1/updates/{update_id}").json()
        assert (update["phase"], update["parent"]) == ("training", 0)
        assert update["progress"] == {
            "step": 5,
            "total_steps": 20,
            "percent": 25.0,
            "eta_s": 3,
            "loss": 1.5,
        }
        first = events["data"][0]["id"]
        page = client.get(
            f"/v1/updates/{update_id}/events", params={"after": first, "limit": 1}
        ).json()
        assert ([event["type"] for event in page["data"]], page["has_more"]) == (["started"], True)

    def test_stream_until_the_update_ends(self, client: TestClient, update_id: str) -> None:
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(
                client.get,
                f"/v1/updates/{update_id}/events",
                headers={"Accept": "text/event-stream"},
            )
            assert client.post(f"/v1/updates/{update_id}/cancel").status_code == 200
            answer = following.result(10)
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = [
            dict(line.split(": ", 1) for line in block.split("\n"))
            for block in answer.text.strip().split("\n\n")
        ]
        assert [block["event"] for block in blocks] == ["queued", "finished"]
        assert '"status":"cancelled"' in blocks[1]["data"]
        self._goes_on_where_it_broke(client, update_id, blocks[0]["id"], blocks[1]["id"])

    def _goes_on_where_it_broke(
        self, client: TestClient, update_id: str, first: str, last: str
    ) -> None:
        path, stream = f"/v1/updates/{update_id}/events", {"stream": True}
        rest = client.get(path, params=stream, headers={"Last-Event-ID": first})
        assert "event: finished" in rest.text
        assert "event: queued" not in rest.text
        over = client.get(path, params=stream, headers={"Last-Event-ID": last})
        assert over.status_code == 204
        bad = client.get(path, params=stream, headers={"Last-Event-ID": "yesterday"})
        assert bad.status_code == 422
        assert "Last-Event-ID" in bad.text.title().replace("Id", "ID")


def test_without_a_base_model_nothing_is_opened(
    client: TestClient, database: Database, submit: Submit
) -> None:
    with database.transaction() as session:
        session.execute(delete(Activation))
        session.execute(delete(Checkpoint))
    ids = submit(1)
    answer = client.post("/v1/updates")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert statuses(client, ids) == ["pending"]
