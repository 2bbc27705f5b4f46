"""Rebuilds: how what was withdrawn leaves the weights.

A rebuild starts again from the newest ancestor of current whose weights never saw any of it, and
teaches what was learned since. One rebuild takes everything that waits. Its facts stay `trained`:
current contains them until another version is activated.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, CompoundSelect, Select, case, func, select
from sqlalchemy.orm import Session, aliased

from app.db import utc_now
from app.errors import Conflict
from app.models import Activation, Checkpoint, Fact, Proof, Update, UpdateFact
from app.models.checkpoints import FAILED_CONTROL
from app.recipe import Recipe
from app.services import activations, audit, lapses, recipes, runs, updates
from app.services.audit import SYSTEM, Actor

MOST_FACTS = 10_000  # taught again at once; older ones wait to be learned on top
TRY_AGAIN = timedelta(minutes=10)
CONTROL = "control"  # origin of a proof that something is no longer answered
UNSERVED = "engine_unavailable"  # why a version is held that the engine couldn't answer from


@dataclass(frozen=True)
class Plan:
    """What a rebuild would do now."""

    replaces: int
    parent: int
    fact_ids: tuple[str, ...]
    oldest: datetime  # when the first of what has to go was withdrawn
    newest: datetime  # since when all of it has been asked for


def plan(session: Session) -> Plan | None:
    """Plan the rebuild that current needs; None when it holds nothing that has to go."""
    now = activations.current(session)
    if now is None:
        return None
    times = (func.min(Fact.updated_at), func.max(Fact.updated_at))
    retracted = func.count().filter(Fact.status == "retracted")
    gone = select(*times, retracted).where(Fact.id.in_(unwanted(now.version)))
    oldest, newest, asked_for = session.execute(gone).one()
    if oldest is None:
        return None
    # Whoever activates what holds a retracted fact was told that it is rebuilt. What superseded
    # facts ask for, they ask for once: a rollback stays a rollback.
    newest = max(newest, now.at) if asked_for else newest
    line = activations.line_of(now.version)
    ancestors = select(Checkpoint).where(Checkpoint.version.in_(line))
    # The base model saw no fact and is never deleted, so there always is a start.
    start = session.scalars(
        ancestors.where(
            Checkpoint.status == "ready",
            Checkpoint.version < _first_to_see(session, now.version),
        ).order_by(Checkpoint.version.desc())
    ).first()
    assert start is not None  # noqa: S101 - narrows the type
    removed = activations.lineage(session, now.version) - activations.lineage(
        session, start.version
    )
    line = activations.line_of(start.version)
    kept = select(Fact.id).where(
        Fact.id.in_(lapses.proven_by(removed)), Fact.status == "trained", ~lapses.learned_in(line)
    )
    ids = tuple(session.scalars(kept.order_by(Fact.id.desc()).limit(MOST_FACTS)))
    return Plan(now.version, start.version, ids, oldest, newest)


def unwanted(version: int) -> CompoundSelect[str]:
    """Build the query for the ids of what a version's weights saw but should not hold.

    That is every retracted fact, taught with success or not, and every superseded one that was
    still answered when its successor was last examined. Whoever withdraws a large source asks for
    more ids than a statement takes as parameters.
    """
    line = activations.line_of(version)
    seen = lapses.learned_in(line, proven=False)
    failed = select(Proof.fact_id).where(FAILED_CONTROL)
    superseded = (Fact.status == "superseded", Fact.id.in_(failed), _still_answered(line))
    retracted = select(Fact.id).where(Fact.status == "retracted", seen)
    return retracted.union_all(select(Fact.id).where(*superseded, seen))


def read_state(session: Session) -> tuple[int | None, ...]:
    """Return what `plan_due` depends on; quickly read, where that may take a while."""
    now = select(func.max(Activation.id))
    retracted = select(func.count()).select_from(Fact).where(Fact.status == "retracted")
    failed = select(func.count()).select_from(Proof).where(FAILED_CONTROL)
    return tuple(session.scalar(query) for query in (now, retracted, failed))


def plan_due(session: Session) -> Plan | None:
    """Plan the rebuild that current needs, unless a person has to decide.

    That is so once a rebuild of this same version, from the same start, took all of it and was
    held, rejected, or cancelled on request: another one would end alike. One that failed because of
    its recipe, its parent or the reference set, or was held because no engine could serve it, is
    tried again after a while.
    """
    found = plan(session)
    if found is None:
        return None
    # Clocks differ between machines: one that taught any of it didn't take it, whatever they say.
    taught = select(UpdateFact.update_id).where(UpdateFact.fact_id.in_(unwanted(found.replaces)))
    tried = select(Update).where(
        Update.kind == "rebuild",
        Update.replaces == found.replaces,
        Update.parent == found.parent,
        Update.created_at >= found.newest,
        Update.id.not_in(taught),
    )
    return None if any(_speaks_against(row) for row in session.scalars(tried)) else found


def _speaks_against(tried: Update) -> bool:
    """Say whether a rebuild ended as another one would, or as it would for now."""
    misfit = tried.status == "failed" and (tried.error or {}).get("type") in runs.NOBODYS
    # It comes last: said at all, nothing else stands against the version.
    unserved = any(reason.startswith(UNSERVED) for reason in tried.reasons)
    if misfit or unserved:
        return (tried.finished_at or utc_now()) > utc_now() - TRY_AGAIN
    return tried.status in ("succeeded", "failed") or tried.cancel_requested


def open_planned(
    session: Session, found: Plan, wait_s: float, recipe: Recipe | None = None
) -> Update | None:
    """Open the rebuild once something has waited for `wait_s`; None where another one is live."""
    if found.oldest > utc_now() - timedelta(seconds=wait_s):
        return None
    return _open(session, SYSTEM, found, recipe, "auto")


def open_now(
    session: Session, actor: Actor, recipe: Recipe | None = None, activation: str = "auto"
) -> Update:
    """Open the rebuild that current needs; `Conflict` when it needs none or one is under way."""
    found = plan(session)
    if found is None:
        raise Conflict("The current version holds nothing that was withdrawn.")
    opened = _open(session, actor, found, recipe, activation)
    if opened is None:
        raise Conflict("A rebuild is under way already.")
    return opened


def drop_stale(session: Session) -> None:
    """Cancel queued rebuilds whose plan no longer fits; the next look opens a better one."""
    queued = select(Update.id).where(Update.kind == "rebuild", Update.status == "queued")
    for update_id in session.scalars(queued).all():
        found = plan(session)
        row = updates.get(session, update_id)
        if found is None or (found.replaces, found.parent) != (row.replaces, row.parent):
            updates.cancel_stale(session, update_id)


def _open(
    session: Session, actor: Actor, found: Plan, recipe: Recipe | None, activation: str
) -> Update | None:
    """Open the planned rebuild, or return None where another one took its facts."""
    ids = session.scalars(
        select(Fact.id)
        .where(Fact.id.in_(found.fact_ids), Fact.status == "trained")
        .order_by(Fact.id)
        .with_for_update()
    ).all()
    live = (Update.kind == "rebuild", Update.status.in_(updates.LIVE_UPDATE))
    if session.scalar(select(Update.id).where(*live).limit(1)) is not None:
        return None
    activations.check_ready(session, found.parent)
    opened = Update(
        kind="rebuild",
        parent=found.parent,
        replaces=found.replaces,
        recipe=recipes.choose(session, recipe).model_dump(),
        activation=activation,
        created_by=actor.key_id,
    )
    updates.enlist(session, opened, ids)
    after = {"facts": len(ids), "replaces": found.replaces, "parent": found.parent}
    audit.record(session, actor, "update.open", opened.id, after=after)
    return opened


def _first_to_see(session: Session, version: int) -> int:
    """Return the oldest version of a lineage that was taught any of what has to go."""
    line = activations.line_of(version)
    query = (
        select(func.min(Checkpoint.version))
        .join(UpdateFact, UpdateFact.update_id == Checkpoint.update_id)
        .where(
            UpdateFact.fact_id.in_(unwanted(version)),
            UpdateFact.proven.is_not(None),
            Checkpoint.version.in_(line),
        )
    )
    return session.scalars(query).one()


def _still_answered(line: Select[int]) -> ColumnElement[bool]:
    """Build the condition that a fact failed a control, and passed none in a line since.

    It counts where it failed in the line, or in a version that never became current: so ends what
    is built on a line that answers still. That such a one passed says nothing of the line.
    """
    asked = aliased(Proof)
    here = asked.version.in_(line)
    held = asked.version.not_in(select(Activation.version))
    failed = func.max(case((~asked.passed & (here | held), asked.version)))
    last = func.max(case((here, asked.version), else_=0))
    both = select(failed >= last).where(asked.fact_id == Fact.id, asked.origin == CONTROL)
    return both.correlate(Fact).scalar_subquery()
