"""Checkpoints: list, read, label, activate, roll back."""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app.config import Settings
from app.db import Database
from app.deps import DatabaseDep, EngineDep, OnceDep, ReaderDep, SessionDep, SettingsDep, needs
from app.engine_pool import EnginePool
from app.errors import Conflict
from app.hangup import until_gone
from app.schemas.checkpoints import (
    ActivateIn,
    ActivationOut,
    CheckpointChange,
    CheckpointOut,
    DifferenceOut,
    DiffOut,
    DiffQuery,
    RollbackIn,
)
from app.schemas.common import ListOf, NumberedPageQuery, PageQuery
from app.schemas.facts import FactOut, facts_out
from app.services import activations, checkpoints, differences, vllm
from app.services.audit import Actor
from app.services.differences import Comparison
from app.services.standing import find_standings

router = APIRouter(tags=["checkpoints"])
Writer = Annotated[Actor, Depends(needs("checkpoints:write"))]
Version = Annotated[int, Path(ge=0, le=2**31 - 1)]
reads = [Depends(needs("checkpoints:read"))]
reads_facts = [*reads, Depends(needs("facts:read"))]


@router.get("/checkpoints", dependencies=reads)
def list_checkpoints(
    query: Annotated[NumberedPageQuery, Query()], session: ReaderDep
) -> ListOf[CheckpointOut]:
    """List checkpoints, newest first."""
    rows, has_more = checkpoints.list_checkpoints(session, query.page())
    current = activations.current(session)
    return ListOf(data=[CheckpointOut.of(row, current) for row in rows], has_more=has_more)


@router.get("/checkpoints/{version}", dependencies=reads)
def get_checkpoint(version: Version, session: ReaderDep) -> CheckpointOut:
    """Read one checkpoint."""
    return CheckpointOut.of(checkpoints.get(session, version), activations.current(session))


@router.patch("/checkpoints/{version}")
def change_checkpoint(
    version: Version, body: CheckpointChange, session: SessionDep, actor: Writer
) -> CheckpointOut:
    """Change a checkpoint's label or its protection from deletion."""
    changes = body.model_dump(exclude_unset=True)
    row = checkpoints.change(session, actor, version, changes)
    return CheckpointOut.of(row, activations.current(session))


@router.get("/checkpoints/{version}/facts", dependencies=reads_facts)
def list_checkpoint_facts(
    version: Version, query: Annotated[PageQuery, Query()], session: ReaderDep
) -> ListOf[FactOut]:
    """List what is proven in this version or in one it was trained from, and not lost since."""
    rows, has_more = checkpoints.list_facts(session, version, query.page())
    return ListOf(data=facts_out(rows, find_standings(session, rows)), has_more=has_more)


@router.get("/checkpoints/{version}/diff", dependencies=reads_facts)
async def diff_checkpoints(
    version: Version,
    query: Annotated[DiffQuery, Query()],
    request: Request,
    database: DatabaseDep,
    engine: EngineDep,
    settings: SettingsDep,
) -> DiffOut:
    """Ask two versions about the facts that either has learned; list what they answer differently.

    Both are asked now, from their weights alone: a page may take as long as all its questions.
    """

    def collect() -> Comparison:
        with database.reading() as session:
            found = differences.collect(session, version, query.against, query.page())
            # Posted while another engine served, a question may spell a role of vLLM's.
            special = partial(vllm.find_special_token, session, settings)
            return replace(found, probes=[p for p in found.probes if not special(p.question)])

    compared = await run_in_threadpool(collect)
    async with until_gone(request, differences.find(engine, compared)) as answered:
        found = await answered
    return DiffOut(
        version=compared.version,
        against=compared.against,
        asked=len(compared.probes),
        unasked=compared.unasked,
        data=[DifferenceOut.of(difference) for difference in found],
        has_more=compared.has_more,
        last=compared.last,
    )


@router.post("/checkpoints/{version}/activate", response_model=ActivationOut)
def activate_checkpoint(
    version: Version,
    body: ActivateIn,
    database: DatabaseDep,
    engine: EngineDep,
    settings: SettingsDep,
    session: SessionDep,
    actor: Writer,
    once: OnceDep,
) -> Response:
    """Make a version current, once the engine has answered with it; current already: no change."""
    if not once.is_repeat(database):
        _prove_servable(database, engine, settings, version)

    def work() -> tuple[int, ActivationOut]:
        row = activations.activate(
            session,
            actor,
            version,
            kind="manual",
            reason=body.reason,
            expected_current=body.expected_current,
            allow_retracted=body.allow_retracted,
        )
        return 200, ActivationOut.of(row, activations.replaced_versions(session, [row]))

    return once(work)


@router.post("/rollback", response_model=ActivationOut)
def roll_back(
    body: RollbackIn,
    database: DatabaseDep,
    engine: EngineDep,
    settings: SettingsDep,
    session: SessionDep,
    actor: Writer,
    once: OnceDep,
) -> Response:
    """Go back to a version; updates and newer ones stay. Facts lapse that it is known to lack."""
    target = body.to
    if target is None:
        # Nowhere to go may be because this very request was done before: `once` knows.
        with suppress(Conflict), database.reading() as reader:
            target = activations.rollback_target(reader)
    if target is not None and not once.is_repeat(database):
        _prove_servable(database, engine, settings, target)

    def work() -> tuple[int, ActivationOut]:
        if body.to is None and target not in (None, activations.rollback_target(session)):
            raise activations.CurrentMoved("Another version became current meanwhile; try again.")
        row = activations.rollback(
            session, actor, reason=body.reason, to=target, expected_current=body.expected_current
        )
        return 200, ActivationOut.of(row, activations.replaced_versions(session, [row]))

    return once(work)


@router.get("/activations", dependencies=reads)
def list_activations(
    query: Annotated[NumberedPageQuery, Query()], session: ReaderDep
) -> ListOf[ActivationOut]:
    """List what was current, newest first."""
    rows, has_more = activations.list_activations(session, query.page())
    replaced = activations.replaced_versions(session, rows)
    return ListOf(data=[ActivationOut.of(row, replaced) for row in rows], has_more=has_more)


def _prove_servable(
    database: Database, engine: EnginePool, settings: Settings, version: int
) -> None:
    """Have the engine answer with a version that isn't current yet, while no transaction is open.

    What the ledger would refuse anyway is left to it: its errors say more.
    """
    with database.reading() as session:
        checkpoint = checkpoints.get(session, version)
        current = activations.current(session)
    if checkpoint.status == "ready" and (current is None or current.version != version):
        engine.prove(checkpoint.digest, str(settings.store / "objects" / checkpoint.digest))
