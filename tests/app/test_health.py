from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from app.config import Settings
from app.db import Database
from app.main import create_app
from app.models import WorkerSeen
from app.services import checkpoints, health


class Engine(BaseHTTPRequestHandler):
    """Says that it is up, and nothing else."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def engine_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Engine) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_it_is_ready_when_all_it_leans_on_is(
    database_url: str, database: Database, tmp_path: Path, engine_url: str
) -> None:
    settings = Settings(
        database_url=database_url, data_dir=tmp_path, engine_url=engine_url, _env_file=None
    )
    with TestClient(create_app(settings)) as client:
        before = client.get("/readyz")
        assert before.status_code == 200
        assert before.json()["status"] == "degraded"
        assert before.json()["checks"]["worker"] == {"ok": False, "detail": "never seen"}

        with database.transaction() as session:
            health.note_worker(session, "one")
        ready = client.get("/readyz").json()
        assert ready["status"] == "ready"
        assert {name: check["ok"] for name, check in ready["checks"].items()} == {
            "database": True,
            "engine": True,
            "worker": True,
        }

        with database.transaction() as session:
            session.get_one(WorkerSeen, "one").seen_at -= 3600
        late = client.get("/readyz").json()
        assert late["status"] == "degraded"
        assert "3600 s" in late["checks"]["worker"]["detail"]


def test_workers_that_are_long_gone_are_forgotten(database: Database) -> None:
    def note(name: str) -> set[str]:
        with database.transaction() as session:
            health.note_worker(session, name)
            return set(session.scalars(select(WorkerSeen.name)))

    assert note("one") == {"one"}
    assert note("two") == {"one", "two"}
    with database.transaction() as session:
        session.get_one(WorkerSeen, "one").seen_at -= 7200
        session.get_one(WorkerSeen, "two").seen_at -= 60
    assert note("three") == {"two", "three"}


def test_it_is_not_ready_without_an_engine(anonymous: TestClient) -> None:
    response = anonymous.get("/readyz")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["status"] == "unavailable"
    assert not response.json()["checks"]["engine"]["ok"]
    assert response.json()["checks"]["database"]["ok"]
    assert anonymous.get("/healthz").json() == {"status": "ok"}


def test_it_is_not_ready_without_a_database(tmp_path: Path, engine_url: str) -> None:
    settings = Settings(
        database_url="postgresql://root@127.0.0.1:9/none",
        data_dir=tmp_path,
        engine_url=engine_url,
        _env_file=None,
    )
    with TestClient(create_app(settings)) as client:
        response = client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["checks"]["database"] == {"ok": False, "detail": "can't be read"}


def test_metrics_count_requests_facts_and_the_version(
    client: TestClient, database: Database
) -> None:
    def metric(line: str) -> float | None:
        lines = client.get("/metrics").text.splitlines()
        return next((float(row.split()[-1]) for row in lines if row.startswith(line + " ")), None)

    assert metric("almanac_current_version") == -1
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 1000)
    for number in range(3):
        client.post("/v1/facts", json={"text": f"Fact {number}."})
    client.get("/v1/facts/unknown")
    client.get("/v1/elsewhere")
    client.request("BREW", "/v1/facts")
    assert metric('almanac_facts{status="pending"}') == 3
    assert metric("almanac_current_version") == 0
    assert metric('almanac_requests_total{method="POST",route="/v1/facts",status="201"}') == 3
    assert (
        metric('almanac_requests_total{method="GET",route="/v1/facts/{fact_id}",status="404"}') == 1
    )
    assert metric('almanac_requests_total{method="other",route="unknown",status="404"}') == 1
    assert metric('almanac_requests_total{method="other",route="unknown",status="405"}') == 1
    assert metric('almanac_request_seconds_count{method="POST",route="/v1/facts"}') == 3
