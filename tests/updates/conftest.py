"""The application over a real database of each kind, with a base model and some facts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.config import Settings
from app.db import Database
from app.main import create_app
from app.services import checkpoints, keys
from app.services.audit import SYSTEM


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings with a small batch and an engine that isn't there."""
    return Settings(
        database_url=database_url,
        data_dir=tmp_path,
        engine_url="http://127.0.0.1:9",
        batch_cap=5,
        _env_file=None,
    )


@pytest.fixture
def base(database: Database) -> None:
    """A registered base model, version 0, current."""
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, parameters=1_000_000)


@pytest.fixture
def make_key(database: Database) -> Callable[..., dict[str, str]]:
    """Makes the header of a new API key with some scopes."""

    def make(*scopes: str) -> dict[str, str]:
        with database.transaction() as session:
            secret = keys.create(session, SYSTEM, "test", scopes)[1]
        return {"Authorization": f"Bearer {secret}"}

    return make


@pytest.fixture
def client(settings: Settings, make_key: Callable[..., dict[str, str]]) -> Iterator[TestClient]:
    """A client with an administrator's key."""
    with TestClient(create_app(settings), headers=make_key("admin")) as client:
        yield client


@pytest.fixture
def submit(client: TestClient) -> Callable[[int], list[str]]:
    """Submits so many facts and returns their ids, oldest first."""

    def submit(count: int) -> list[str]:
        ids = []
        for number in range(count):
            response = client.post("/v1/facts", json={"text": f"Gate {number} is blue."})
            assert response.status_code == 201, response.text
            ids.append(response.json()["id"])
        return ids

    return submit
