"""The application over a real database of each kind, with keys to call it."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.config import Settings
from app.db import Database
from app.main import create_app
from app.services import keys
from app.services.audit import SYSTEM

NO_ENGINE = "http://127.0.0.1:9"


@pytest.fixture
def app(database_url: str, tmp_path: Path) -> FastAPI:
    """The application; it has no engine."""
    return create_app(
        Settings(database_url=database_url, data_dir=tmp_path, engine_url=NO_ENGINE, _env_file=None)
    )


@pytest.fixture
def make_secret(database: Database) -> Callable[..., str]:
    """Makes an API key with some scopes."""

    def make(*scopes: str) -> str:
        with database.transaction() as session:
            return keys.create(session, SYSTEM, "+".join(scopes), scopes)[1]

    return make


@pytest.fixture
def anonymous(app: FastAPI) -> Iterator[TestClient]:
    """A client without a key."""
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(anonymous: TestClient, make_secret: Callable[..., str]) -> TestClient:
    """A client with an administrator's key."""
    anonymous.headers["Authorization"] = f"Bearer {make_secret('admin')}"
    return anonymous


def wait_until_blocked(database: Database, call: Future[Any]) -> None:
    """Wait until a call waits for rows that the test has locked, or is done.

    On SQLite it waits before it has read anything.
    """
    waits = "datname = current_database() AND wait_event_type = 'Lock'"
    blocked = text(f"SELECT count(*) FROM pg_stat_activity WHERE {waits}")
    while database.engine.dialect.name == "postgresql" and not call.done():
        with database.looking() as connection:
            if connection.scalar(blocked):
                return
