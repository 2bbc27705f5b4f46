"""What routes ask for by annotation: sessions, the caller, settings, one answer per repeat.

Both sessions close before the response is sent, so a client never reads a promise that could
still be rolled back. No dependency runs SQL in the request's own transaction: a write lock on
SQLite, held between two thread-pool hops, could wait for threads that wait for the lock.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Annotated, cast

from fastapi import Depends, Header, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from app.config import Settings
from app.db import Database
from app.engine_pool import EnginePool
from app.errors import Forbidden, Unauthorized
from app.services import idempotency, keys
from app.services.audit import Actor

_bearer = HTTPBearer(auto_error=False, description="An API key: `alm_…`")


async def get_settings(request: Request) -> Settings:
    """Return the settings that this application was made with."""
    return cast(Settings, request.app.state.settings)


async def get_database(request: Request) -> Database:
    """Return the open database."""
    return cast(Database, request.app.state.database)


async def get_engine(request: Request) -> EnginePool:
    """Return the client of the engines that serve."""
    return cast(EnginePool, request.app.state.engine)


SettingsDep = Annotated[Settings, Depends(get_settings)]
DatabaseDep = Annotated[Database, Depends(get_database)]
EngineDep = Annotated[EnginePool, Depends(get_engine)]


def open_session(database: DatabaseDep) -> Iterator[Session]:
    """Open the request's transaction; commit it, then run what waits for that, then answer."""
    with database.transaction() as session:
        yield session
    for call in session.info.get("after_commit", ()):
        call()


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Run ``call`` once the request's transaction is committed; never after a rollback."""
    session.info.setdefault("after_commit", []).append(call)


def open_reader(database: DatabaseDep) -> Iterator[Session]:
    """Open a session that only reads."""
    with database.reading() as session:
        yield session


SessionDep = Annotated[Session, Depends(open_session, scope="function")]
ReaderDep = Annotated[Session, Depends(open_reader, scope="function")]


class Callers:
    """Whom each key named a moment ago, so that not every request asks the database.

    A revoked or expired key is refused after KEPT_S at the latest; at once by the process that
    revoked it.
    """

    KEPT_S = 1.0
    MOST = 1000

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[bytes, tuple[float, Actor]] = {}

    async def name(self, secret: str) -> Actor:
        """Name the caller that holds this secret, or raise Unauthorized."""
        known, mark = self._known, hashlib.sha256(secret.encode()).digest()
        now = time.monotonic()
        if mark in known and now < known[mark][0]:
            return known[mark][1]
        actor = await run_in_threadpool(_identify, self._database, secret)
        if len(known) >= self.MOST:
            known.clear()
        known[mark] = (now + self.KEPT_S, actor)
        return actor

    def forget(self) -> None:
        """Ask the database anew about everybody, also what is being asked now."""
        self._known = {}


def _identify(database: Database, secret: str) -> Actor:
    with database.reading() as session:
        return keys.authenticate(session, secret)


async def get_callers(request: Request) -> Callers:
    """Return who was proven lately."""
    return cast(Callers, request.app.state.callers)


CallersDep = Annotated[Callers, Depends(get_callers)]


async def authenticate(
    request: Request,
    callers: CallersDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Actor:
    """Name the caller by its API key; every ``/v1`` route depends on it."""
    if credentials is None:
        raise Unauthorized
    actor = await callers.name(credentials.credentials)
    return replace(actor, request_id=request.state.request_id)


def needs(scope: str) -> Callable[..., Awaitable[Actor]]:
    """Make the dependency that gives the caller, or 403 without the scope."""

    async def check(actor: Annotated[Actor, Depends(authenticate)]) -> Actor:
        if not actor.scopes & {scope, "admin"}:
            raise Forbidden(f"This API key lacks the scope `{scope}`.")
        return actor

    return check


class Once:
    """Answers a POST; with an ``Idempotency-Key``, answers its repeats with the same words.

    A route ends with ``return once(work)``, where ``work`` does everything that writes and returns
    status and body. What is stored commits together with what ``work`` wrote, or not at all.
    """

    def __init__(self, session: Session, actor: Actor, key: str | None, fingerprint: str) -> None:
        self.session, self.actor, self.key, self.fingerprint = session, actor, key, fingerprint

    def is_repeat(self, database: Database) -> bool:
        """Say whether the request has its answer already, so that nothing need be made ready."""
        if self.key is None or self.actor.key_id is None:
            return False
        with database.reading() as session:
            return idempotency.is_answered(session, self.actor.key_id, self.key)

    def __call__(
        self, work: Callable[[], tuple[int, BaseModel]], *, hide: frozenset[str] = frozenset()
    ) -> Response:
        """Do the work, or replay what it once answered; ``hide`` names fields never stored."""
        if self.key is None or self.actor.key_id is None:
            status, answer = work()
            return _json(status, answer.model_dump_json())
        owner = self.actor.key_id
        row, is_new = idempotency.begin(self.session, owner, self.key, self.fingerprint)
        if not is_new:
            return _json(row.status, row.body, replayed=True)
        status, answer = work()
        row.status, row.body = status, answer.model_dump_json(exclude=set(hide))
        return _json(status, answer.model_dump_json())


def _json(status: int, body: str, *, replayed: bool = False) -> Response:
    headers = {"Idempotency-Replayed": "true"} if replayed else None
    return Response(body, status, headers, media_type="application/json")


async def get_once(
    request: Request,
    session: SessionDep,
    actor: Annotated[Actor, Depends(authenticate)],
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern="^[!-~]+$",
            description="Repeats with the same key and body get the first answer, for 7 days",
        ),
    ] = None,
) -> Once:
    """Bind one request to its idempotency key; nothing is read or written yet."""
    parts = (request.method, request.url.path, request.url.query)
    digest = hashlib.sha256("\n".join(parts).encode() + b"\n" + await request.body())
    return Once(session, actor, key, digest.hexdigest())


OnceDep = Annotated[Once, Depends(get_once)]
