"""Rebuilds: how what was withdrawn leaves the weights.

A rebuild starts again from the newest ancestor of current whose weights never saw any of it, and
teaches what was learned since. One rebuild takes everything that waits. Its facts stay `trained`:
current contains them until another version is activated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, false, func, select
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


@dataclass(frozen=True)
class Plan:
    """What a rebuild would do now."""

    replaces: int
    parent: int
    fact_ids: tuple[str, ...]
    unwanted: tuple[str, ...]
    oldest: datetime  # when the first and the last of what has to go were withdrawn
    newest: datetime


def plan(session: Session) -> Plan | None:
    """Plan the rebuild that current needs; None when it holds nothing that has to go."""
    now = activations.current(session)
    unwanted = find_unwanted(session, now.version) if now else []
    if now is None or not unwanted:
        return None
    line = activations.line_of(now.version)
    ancestors = select(Checkpoint).where(Checkpoint.version.in_(line))
    # The base model saw no fact and is never deleted, so there always is a start.
    start = session.scalars(
        ancestors.where(
            Checkpoint.status == "ready",
            Checkpoint.version < _first_to_see(session, now.version, unwanted),
        ).order_by(Checkpoint.version.desc())
    ).first()
    assert start is not None  # noqa: S101 - narrows the type
    removed = activations.lineage(session, now.version) - activations.lineage(
        session, start.version
    )
    times = [fact.updated_at for fact in unwanted]
    line = activations.line_of(start.version)
    kept = select(Fact.id).where(
        Fact.id.in_(lapses.proven_by(removed)), Fact.status == "trained", ~lapses.learned_in(line)
    )
    newest = session.scalars(kept.order_by(Fact.id.desc()).limit(MOST_FACTS))
    gone = tuple(fact.id for fact in unwanted)
    return Plan(now.version, start.version, tuple(newest), gone, min(times), max(times))


def find_unwanted(session: Session, version: int) -> Sequence[Fact]:
    """Return what a version's weights saw but should not hold, with probes left out.

    That is every retracted fact, taught with success or not, and every superseded one that was
    still answered when its successor was last examined.
    """
    line = activations.line_of(version)
    seen = lapses.learned_in(line, proven=False)
    failed = select(Proof.fact_id).where(FAILED_CONTROL)
    superseded = (Fact.status == "superseded", Fact.id.in_(failed), _still_answered())
    retracted = session.scalars(select(Fact).where(Fact.status == "retracted", seen))
    both = [*retracted, *session.scalars(select(Fact).where(*superseded, seen))]
    return sorted(both, key=lambda fact: fact.id)


def read_state(session: Session) -> tuple[int | None, ...]:
    """Return what `plan_due` depends on; quickly read, where that may take a while."""
    now = select(func.max(Activation.id))
    retracted = select(func.count()).select_from(Fact).where(Fact.status == "retracted")
    failed = select(func.count()).select_from(Proof).where(FAILED_CONTROL)
    return tuple(session.scalar(query) for query in (now, retracted, failed))


def plan_due(session: Session) -> Plan | None:
    """Plan the rebuild that current needs, unless a person has to decide.

    That is so once a rebuild of this same version took all of it and was held, rejected, or
    cancelled on request: another one would end alike. One that failed because of its recipe, its
    parent or the reference set is tried again after a while.
    """
    found = plan(session)
    if found is None:
        return None
    misfit = Update.error["type"].as_string().in_(runs.NOBODYS)
    lately = Update.finished_at > utc_now() - TRY_AGAIN
    failed = (Update.status == "failed") & (~func.coalesce(misfit, false()) | lately)
    ended = (Update.status == "succeeded") | failed | Update.cancel_requested
    # Clocks differ between machines: one that taught any of it didn't take it, whatever they say.
    taught = select(UpdateFact.update_id).where(UpdateFact.fact_id.in_(found.unwanted))
    tried = select(func.max(Update.created_at)).where(
        Update.kind == "rebuild", Update.replaces == found.replaces, ended, Update.id.not_in(taught)
    )
    last = session.scalar(tried)
    return None if last is not None and last >= found.newest else found


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


def _first_to_see(session: Session, version: int, facts: Sequence[Fact]) -> int:
    """Return the oldest version of a lineage that was taught any of the facts."""
    line = activations.line_of(version)
    query = (
        select(func.min(Checkpoint.version))
        .join(UpdateFact, UpdateFact.update_id == Checkpoint.update_id)
        .where(
            UpdateFact.fact_id.in_([fact.id for fact in facts]),
            UpdateFact.proven.is_not(None),
            Checkpoint.version.in_(line),
        )
    )
    return session.scalars(query).one()


def _still_answered() -> ColumnElement[bool]:
    """Build the condition that a fact failed a control when it was last asked as one."""
    later = aliased(Proof)
    last = select(func.max(later.version)).where(later.fact_id == Fact.id, later.origin == CONTROL)
    return exists(
        select(Proof.id).where(
            Proof.fact_id == Fact.id,
            Proof.origin == CONTROL,
            Proof.passed.is_(False),
            Proof.version == last.correlate(Fact).scalar_subquery(),
        )
    )
