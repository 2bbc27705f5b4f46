"""Fixtures shared by all tests: a migrated database of each kind."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from app.db import Database
from app.migrate import migrate

# On Debian-like machines Postgres trusts local connections; elsewhere name a server that may
# create databases.
POSTGRES = os.environ.get("TEST_POSTGRES_URL", "postgresql://root@127.0.0.1:5432/postgres")
REDIS = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379")
OWN_REDIS = 15  # the whole service's database there: its worker would take others' messages


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """URL of a fresh, migrated SQLite database."""
    url = f"sqlite:///{tmp_path / 'almanac.db'}"
    migrate(url)
    return url


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[str]:
    """Name of a migrated Postgres database that tests copy; migrated once."""
    name = f"almanac_template_{secrets.token_hex(4)}"
    with psycopg.connect(POSTGRES, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        migrate(POSTGRES.rsplit("/", 1)[0] + f"/{name}")
        yield name
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_url(postgres_template: str) -> Iterator[str]:
    """URL of a fresh, migrated Postgres database."""
    name = f"almanac_test_{secrets.token_hex(6)}"
    with psycopg.connect(POSTGRES, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
        yield POSTGRES.rsplit("/", 1)[0] + f"/{name}"
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh, migrated database, once per kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh, migrated database, once per kind."""
    database = Database(database_url)
    yield database
    database.close()
