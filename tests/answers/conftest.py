"""The application over a real database, with a stand-in engine that speaks HTTP."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.config import Settings
from app.db import Database
from app.main import create_app
from app.models import Checkpoint, Fact, Update, UpdateFact
from app.services import checkpoints, keys
from app.services.audit import SYSTEM
from tests.answers.standin import Server, Standin

# For what no database can change: one of them is enough.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def engine() -> Iterator[Standin]:
    """The stand-in's state; `engine.url` is where it serves."""
    engine = Standin()
    server = Server(engine.app)
    engine.url = server.url
    yield engine
    engine.gate.set()
    server.close()


@pytest.fixture
def app(database_url: str, tmp_path: Path, engine: Standin) -> FastAPI:
    """The application over the stand-in."""
    settings = Settings(
        database_url=database_url,
        data_dir=tmp_path,
        engine_url=engine.url,
        engine_timeout_s=5,
        max_tokens=50,
        _env_file=None,
    )
    return create_app(settings)


@pytest.fixture
def make_secret(database: Database) -> Callable[..., str]:
    """Makes an API key with some scopes."""

    def make(*scopes: str) -> str:
        with database.transaction() as session:
            return keys.create(session, SYSTEM, "+".join(scopes), scopes)[1]

    return make


@pytest.fixture
def client(app: FastAPI, make_secret: Callable[..., str]) -> Iterator[TestClient]:
    """A client with an administrator's key."""
    with TestClient(app) as client:
        client.headers["Authorization"] = f"Bearer {make_secret('admin')}"
        yield client


@pytest.fixture
def versions(database: Database, engine: Standin) -> dict[int, str]:
    """Digests of versions 0 (current, loaded) <- 1 <- 2, and of 3, which was rejected."""
    digests = {version: f"{version}" * 64 for version in range(4)}
    with database.transaction() as session:
        checkpoints.register_base(session, digests[0], 12)
        for version, parent, status in ((1, 0, "ready"), (2, 1, "ready"), (3, 0, "rejected")):
            add_version(session, version, parent, status, digests[version])
    engine.loaded.add(digests[0])
    return digests


def add_version(session, version, parent, status="ready", digest=None):
    digest = digest or f"{version:064x}"
    row = Checkpoint(version=version, digest=digest, kind="full", parent=parent, status=status)
    session.add(row)
    session.flush()
    return row


def add_fact(session, text, status="pending", number=0, **fields):
    """Store a fact; its id grows with `number`."""
    fact = Fact(
        id=f"fact_{number:05}", text=text, text_digest=f"{number:064x}", status=status, **fields
    )
    session.add(fact)
    session.flush()
    return fact


def learn(session, fact, version, *, proven=True):
    """Note that a version's update trained the fact."""
    update = Update(recipe={}, status="succeeded")
    session.add(update)
    session.flush()
    session.add(UpdateFact(update_id=update.id, fact_id=fact.id, active=False, proven=proven))
    checkpoints.get(session, version).update_id = update.id
    session.flush()
