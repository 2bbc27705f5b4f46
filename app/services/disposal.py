"""Checkpoints that nobody needs any more: which they are, and their way from ready to deleted.

Kept, whatever their age, are: the base model; what was activated last, current first of all;
protected ones; what an unfinished update starts from or replaces; held ones that facts wait in or
that were made to replace current; the roots of kept adapters; and ancestors of current that
rebuilds can start from. Those lie ever farther apart: an ancestor at depth n is kept while a power
of two divides n that is at least half its distance from current. A line of thousands keeps at most
twenty, and a rebuild has at most about three times the updates to make up for that it would have
with all of them.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db import utc_now
from app.models import Activation, Checkpoint, Fact, Update
from app.services import activations, audit, lapses
from app.services.audit import SYSTEM
from app.services.standing import has_status
from app.services.updates import LIVE_UPDATE

ALIVE = ("ready", "rejected")


def mark(session: Session, *, keep_activated: int, grace_s: float) -> Sequence[int]:
    """Begin to delete what nobody needs: from here on it can't be activated or asked."""
    old = Checkpoint.created_at < utc_now() - timedelta(seconds=grace_s)
    query = select(Checkpoint.version).where(
        Checkpoint.status.in_(ALIVE), old, ~Checkpoint.protected, Checkpoint.version != 0
    )
    if not set(session.scalars(query)) - _find_needed(session, keep_activated):
        return []
    # Whoever activates one of these meanwhile is waited for, and seen by what is read after.
    found = set(session.scalars(query.order_by(Checkpoint.version).with_for_update()))
    doomed = found - _find_needed(session, keep_activated)
    doomed = {version for version in doomed if not _is_waited_in(session, version)}
    doomed -= _roots(session, doomed)
    gone = update(Checkpoint).where(Checkpoint.version.in_(doomed), Checkpoint.status.in_(ALIVE))
    session.execute(gone.values(status="deleting"))
    for version in sorted(doomed):
        audit.record(session, SYSTEM, "checkpoint.delete", f"v{version}")
    return sorted(doomed)


def list_deleting(session: Session) -> Sequence[Checkpoint]:
    """Return the checkpoints whose files are to be removed."""
    return session.scalars(select(Checkpoint).where(Checkpoint.status == "deleting")).all()


def finish(session: Session, version: int) -> None:
    """Say that a checkpoint's files are gone."""
    deleting = (Checkpoint.version == version, Checkpoint.status == "deleting")
    session.execute(update(Checkpoint).where(*deleting).values(status="deleted"))


def find_orphans(session: Session, digests: Sequence[str]) -> list[str]:
    """Return the digests, listed before this, that no version has and none is about to get."""
    running = select(Update.id).where(Update.status == "running").limit(1)
    # Before the base model is registered, its files are all there is.
    if session.scalar(running) is not None or session.get(Checkpoint, 0) is None:
        return []
    known = set(session.scalars(select(Checkpoint.digest)))
    return [digest for digest in digests if digest not in known]


def _find_needed(session: Session, keep_activated: int) -> set[int]:
    now = activations.current(session)
    last = (
        select(Activation.version)
        .group_by(Activation.version)
        .order_by(func.max(Activation.id).desc())
        .limit(max(1, keep_activated))
    )
    needed = set(session.scalars(last))
    for column in (Update.parent, Update.replaces):
        needed.update(
            session.scalars(select(column).where(Update.status.in_(LIVE_UPDATE), column >= 0))
        )
    if now is None:
        return needed
    # Made to replace current, and held: a person decides, or nobody would try again.
    held = select(Checkpoint.version).join(Update, Checkpoint.update_id == Update.id)
    needed.update(
        session.scalars(held.where(Update.replaces == now.version, Update.outcome == "held"))
    )
    return needed | _ladder(sorted(activations.lineage(session, now.version)))


def _ladder(chain: Sequence[int]) -> set[int]:
    """Choose ancestors at growing distances; one that is dropped is never wanted again."""
    last = len(chain) - 1
    return {version for depth, version in enumerate(chain) if 2 * (depth & -depth) >= last - depth}


def _is_waited_in(session: Session, version: int) -> bool:
    """Say whether a held version has facts that no activated one learned."""
    waiting = select(Fact.id).where(
        Fact.id.in_(lapses.proven_by([version])), has_status(session, "held")
    )
    return session.scalar(waiting.limit(1)) is not None


def _roots(session: Session, doomed: set[int]) -> set[int]:
    """Return the roots of all adapters but the doomed ones."""
    kept = (Checkpoint.status.in_(ALIVE), Checkpoint.version.not_in(doomed))
    return {root for root in session.scalars(select(Checkpoint.root).where(*kept)) if root}
