"""Updates: open, follow, cancel, retry."""

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool

from app import queue
from app.db import Database
from app.deps import (
    DatabaseDep,
    OnceDep,
    ReaderDep,
    SessionDep,
    SettingsDep,
    after_commit,
    needs,
)
from app.errors import Invalid
from app.models import Event
from app.schemas.common import ListOf
from app.schemas.updates import EventOut, UpdateIn, UpdateOut, UpdateQuery, updates_out
from app.services import consolidations, events, rebuilds, recipes, updates, vllm
from app.services.audit import Actor

LOOK_S = 0.3  # how often a stream looks for new events
QUIET_S = 15.0  # a stream that says nothing for longer may be cut by a proxy
EVENTS = 200  # most events read at once
router = APIRouter(tags=["updates"])
Writer = Annotated[Actor, Depends(needs("updates:write"))]
reads = [Depends(needs("updates:read"))]


@router.post(
    "/updates",
    status_code=202,
    response_model=UpdateOut,
    responses={200: {"model": UpdateOut, "description": "Nothing waits; this one is live"}},
)
def open_update(
    session: SessionDep,
    actor: Writer,
    settings: SettingsDep,
    once: OnceDep,
    body: UpdateIn | None = None,
) -> Response:
    """Train waiting facts, rebuild without withdrawn ones or merge an adapter, now."""
    body = body or UpdateIn()
    if body.kind != "learn" and body.fact_ids is not None:
        raise Invalid(f"A {body.kind} is given no facts.", pointer="/fact_ids")

    def work() -> tuple[int, UpdateOut]:
        vllm.check_kind(settings, body.kind)
        recipe = vllm.fit_recipe(settings, body.recipe)
        vllm.check_recipe(settings, recipes.choose(session, recipe))
        if body.kind != "learn":
            opener = rebuilds if body.kind == "rebuild" else consolidations
            update, created = opener.open_now(session, actor, recipe, body.activation), True
        else:
            update, created = updates.open_update(
                session,
                actor,
                fact_ids=body.fact_ids,
                recipe=recipe,
                activation=body.activation,
                cap=settings.batch_cap,
            )
        after_commit(session, partial(queue.poke, settings, update.id))
        return 202 if created else 200, updates_out(session, [update])[0]

    return once(work)


@router.get("/updates", dependencies=reads)
def list_updates(session: ReaderDep, query: Annotated[UpdateQuery, Query()]) -> ListOf[UpdateOut]:
    """List updates, newest first."""
    rows, has_more = updates.list_updates(session, query.page(), query.status)
    return ListOf(data=updates_out(session, rows), has_more=has_more)


@router.get("/updates/{update_id}", dependencies=reads)
def get_update(update_id: str, session: ReaderDep) -> UpdateOut:
    """Read one update."""
    return updates_out(session, [updates.get(session, update_id)])[0]


@router.post("/updates/{update_id}/cancel", response_model=UpdateOut)
def cancel_update(update_id: str, session: SessionDep, actor: Writer, once: OnceDep) -> Response:
    """Cancel an update: a queued one at once, a running one within a step."""

    def work() -> tuple[int, UpdateOut]:
        update = updates.request_cancel(session, actor, update_id)
        return 200, updates_out(session, [update])[0]

    return once(work)


@router.post("/updates/{update_id}/retry", status_code=202, response_model=UpdateOut)
def retry_update(
    update_id: str, session: SessionDep, actor: Writer, settings: SettingsDep, once: OnceDep
) -> Response:
    """Open a new update with the facts of a failed one that still wait or have failed."""

    def work() -> tuple[int, UpdateOut]:
        update = updates.retry(session, actor, update_id)
        vllm.check_stored(settings, update.recipe)  # it may have failed under another engine
        after_commit(session, partial(queue.poke, settings, update.id))
        return 202, updates_out(session, [update])[0]

    return once(work)


@router.get(
    "/updates/{update_id}/events",
    dependencies=reads,
    response_model=ListOf[EventOut],
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
        204: {"description": "The update has ended and the stream has been read to its end"},
    },
)
def list_events(
    update_id: str,
    database: DatabaseDep,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Go on after this event")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    stream: Annotated[bool, Query(description="Server-sent events until the update ends")] = False,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[
        int | None, Header(ge=0, le=2**31 - 1, description="Where a broken stream goes on")
    ] = None,
) -> Any:
    """List what an update reported, oldest first, or follow it as server-sent events."""
    if last_event_id is not None:
        after = last_event_id
    follow = stream or "text/event-stream" in accept
    rows, ended = _read(database, update_id, after, 1 if follow else limit + 1)
    if not follow:
        data = [EventOut.model_validate(row) for row in rows[:limit]]
        return ListOf(data=data, has_more=len(rows) > limit)
    if ended and not rows:
        return Response(status_code=204)  # tells an EventSource to stop connecting
    return EventSourceResponse(_follow(database, update_id, after))


async def _follow(database: Database, update_id: str, after: int) -> AsyncIterator[bytes]:
    spoke = time.monotonic()
    while True:
        rows, ended = await run_in_threadpool(_read, database, update_id, after, EVENTS)
        for row in rows:
            data = EventOut.model_validate(row).model_dump_json()
            yield format_sse_event(data_str=data, event=row.type, id=str(row.id))
            after, spoke = row.id, time.monotonic()
        if ended and len(rows) < EVENTS:
            return
        if time.monotonic() - spoke > QUIET_S:
            yield KEEPALIVE_COMMENT
            spoke = time.monotonic()
        await anyio.sleep(LOOK_S)


def _read(
    database: Database, update_id: str, after: int, limit: int
) -> tuple[Sequence[Event], bool]:
    """Read events beyond `after` and whether the update has ended, in one short transaction."""
    with database.reading() as session:
        # The status first: the last event of an update that has ended is then among the rows.
        ended = updates.get(session, update_id).status not in updates.LIVE_UPDATE
        return events.list_after(session, update_id, after=after, limit=limit), ended
