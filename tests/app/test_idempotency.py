from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.db import Database, utc_now
from app.models import Fact, Idempotency, Key
from app.services.idempotency import KEPT


def post(client: TestClient, once: str, **fact: Any) -> Any:
    body = {"text": "Bread costs four marks.", **fact}
    return client.post("/v1/facts", json=body, headers={"Idempotency-Key": once})


def rows(database: Database, model: type) -> int:
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0


def test_a_repeat_gets_the_first_answer(client: TestClient, database: Database) -> None:
    first, again = post(client, "a"), post(client, "a")
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    # The first answer, even where the fact has changed since.
    client.delete(f"/v1/facts/{first.json()['id']}")
    assert post(client, "a").content == first.content
    assert rows(database, Fact) == 1


def test_another_body_or_route_is_refused(client: TestClient) -> None:
    post(client, "a")
    other = post(client, "a", source="x")
    assert other.status_code == 422
    assert other.json()["errors"][0]["pointer"] == "/Idempotency-Key"
    batch = client.post(
        "/v1/facts/batch",
        json={"facts": [{"text": "One."}]},
        headers={"Idempotency-Key": "a"},
    )
    assert batch.status_code == 422


def test_each_api_key_has_its_own(client: TestClient, make_secret: Callable[..., str]) -> None:
    first = post(client, "a").json()
    headers = {"Authorization": f"Bearer {make_secret('facts:write')}", "Idempotency-Key": "a"}
    other = client.post("/v1/facts", json={"text": "Other."}, headers=headers)
    assert other.status_code == 201
    assert other.json()["id"] != first["id"]


def test_racers_wait_and_replay(client: TestClient, database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(client, "a"), range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 15
    assert rows(database, Fact) == 1


def test_a_refused_request_takes_no_key(client: TestClient, database: Database) -> None:
    post(client, "first", key="k")
    refused = post(client, "a", text="Five marks.", key="k", on_conflict="reject")
    assert refused.status_code == 409
    assert rows(database, Idempotency) == 1
    client.delete(f"/v1/facts/{client.get('/v1/facts').json()['data'][0]['id']}")
    assert post(client, "a", text="Five marks.", key="k", on_conflict="reject").status_code == 201


def test_a_key_is_free_again_after_a_week(client: TestClient, database: Database) -> None:
    first = post(client, "a")
    with database.transaction() as session:
        session.scalars(select(Idempotency)).one().created_at = utc_now() - KEPT - timedelta(0, 1)
    later = post(client, "a", source="x", text="Other.")
    assert later.status_code == 201
    assert later.json()["id"] != first.json()["id"]


def test_a_malformed_key_is_refused(client: TestClient, database: Database) -> None:
    for key in ("", "x" * 256, "two words"):
        response = post(client, key)
        assert response.status_code == 422, key
        assert response.json()["errors"][0]["pointer"] == "/Idempotency-Key"
    assert rows(database, Fact) == 0


def test_a_batch_is_replayed_whole(client: TestClient, database: Database) -> None:
    body = {"facts": [{"text": "One."}, {"text": ""}]}
    headers = {"Idempotency-Key": "b"}
    first = client.post("/v1/facts/batch", json=body, headers=headers)
    again = client.post("/v1/facts/batch", json=body, headers=headers)
    assert again.content == first.content
    assert rows(database, Fact) == 1


def test_a_secret_is_never_stored(client: TestClient, database: Database) -> None:
    headers = {"Idempotency-Key": "k"}
    body = {"name": "bot", "scopes": ["qa"]}
    first = client.post("/v1/keys", json=body, headers=headers)
    again = client.post("/v1/keys", json=body, headers=headers)
    assert again.status_code == first.status_code == 201
    secret = first.json()["secret"]
    assert {**again.json(), "secret": secret} == first.json()
    assert "secret" not in again.json()
    with database.reading() as session:
        assert secret not in session.scalars(select(Idempotency.body)).one()
        assert session.scalar(select(func.count()).select_from(Key)) == 2
