"""The database: engine, sessions, transactions; the only module that commits.

SQLite and Postgres run the same code. SQLite gets WAL, synchronous=FULL and an explicit BEGIN,
IMMEDIATE where a transaction may write: a writer waits at its start and never fails half-way.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy import Dialect, Engine, Float, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import DateTime, TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time on both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times; store UTC."""
        del dialect
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Give SQLite's naive value its zone back."""
        del dialect
        return value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC) if value else None


class epoch_now(FunctionElement[float]):  # noqa: N801 - a SQL function's name
    """The database's own clock in seconds since 1970: leases never trust a worker's clock."""

    type = Float()
    inherit_cache = True


@compiles(epoch_now, "postgresql")
def _epoch_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    del element, compiler, kw
    return "extract(epoch from clock_timestamp())::float8"


@compiles(epoch_now, "sqlite")
def _epoch_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    del element, compiler, kw
    return "((julianday('now') - 2440587.5) * 86400.0)"


def utc_now() -> datetime:
    """Return the present time, timezone-aware."""
    return datetime.now(UTC)


Reader = Session | Connection  # the columns of a query are read from either alike


class Database:
    """One engine and the transactions over it."""

    def __init__(self, url: str) -> None:
        self.engine = _make_engine(url)
        self._reader = self.engine.execution_options(reads_only=True)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session that may write; commit on success, roll back on any exception."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session that only reads; it never takes SQLite's write lock."""
        with Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def looking(self) -> Iterator[Connection]:
        """Open what only reads, and no objects: a session's care for them takes time."""
        with self._reader.connect() as connection:
            yield connection

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _make_engine(url: str) -> Engine:
    if url.startswith("sqlite"):
        engine = create_engine(url, connect_args={"timeout": 30}, pool_size=20, max_overflow=20)
        event.listen(engine, "connect", _set_pragmas)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=20)
    event.listen(engine, "connect", _prepare_postgres)
    return engine


def _set_pragmas(connection: DBAPIConnection, _record: Any) -> None:
    assert isinstance(connection, sqlite3.Connection)  # noqa: S101 - narrows the type
    connection.isolation_level = None  # SQLAlchemy's begin event decides, not the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_postgres(connection: DBAPIConnection, _record: Any) -> None:
    assert isinstance(connection, psycopg.Connection)  # noqa: S101 - narrows the type
    connection.execute("SET jit = off")  # a query takes ten times as long to compile as to run
    # In another zone the last day of the calendar may lie outside Python's.
    connection.execute("SET TIME ZONE 'UTC'")
    connection.commit()  # else the pool's rollback takes it back


def _begin_sqlite(connection: Connection) -> None:
    reads_only = connection.get_execution_options().get("reads_only")
    connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
