import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import OWN_REDIS, POSTGRES, REDIS
from tests.e2e.service import Service


@pytest.fixture(scope="module", params=["embedded", "servers"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """A running service: on SQLite and files, then on Postgres and Redis."""
    settings: dict[str, str] = {}
    name = f"almanac_e2e_{secrets.token_hex(4)}"
    if request.param == "servers":
        with psycopg.connect(POSTGRES, autocommit=True) as server:
            server.execute(f"CREATE DATABASE {name}")
        url = POSTGRES.rsplit("/", 1)[0] + f"/{name}"
        settings = {"ALMANAC_DATABASE_URL": url, "ALMANAC_BROKER_URL": f"{REDIS}/{OWN_REDIS}"}
    service = Service(tmp_path_factory.mktemp(request.param), settings)
    service.start()
    yield service
    service.stop()
    if request.param == "servers":
        with psycopg.connect(POSTGRES, autocommit=True) as server:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def facts() -> Path:
    """The shipped example facts."""
    return Path(__file__).parents[2] / "examples/facts.jsonl"
