"""The runner's side of an update: claimed under a lease, reported, ended in one transaction.

Every write is guarded by the token of the claim: a runner that was thought dead changes nothing,
and what would end its run returns None.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Update as Statement
from sqlalchemy import case, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from app.db import epoch_now, utc_now
from app.ids import new_id
from app.models import Checkpoint, Fact, Update, UpdateFact
from app.models.base import JsonObject
from app.services import activations, events, lapses, updates

MOST_ATTEMPTS = 3
TAUGHT = ("training", "trained")  # what a fact of a live update is: the latter in a rebuild
# Trying again can't help these facts, and they alone are to blame.
UNTRAINABLE = ("too_long", "only_asked")
# No fact is: the recipe, the reference set or the parent doesn't fit.
NOBODYS = ("bad_job", "bad_parent")


@dataclass(frozen=True)
class Run:
    """One claim on an update; `token` is what its writes are checked against."""

    update_id: str
    token: int


def claim(session: Session, update_id: str, owner: str, lease_s: float) -> Run | None:
    """Take a queued update, on top of what is current now; None when there is nothing to take.

    What was planned keeps its parent, and isn't taken once another version is current.
    """
    now = activations.current(session)
    if now is None:
        return None
    _spare_known(session, update_id, now.version)
    planned = Update.kind != "learn"  # a rebuild or a consolidation
    taking = (
        update(Update)
        .where(Update.id == update_id, Update.status == "queued")
        .where(or_(~planned, Update.replaces == now.version))
        .values(
            status="running",
            phase="preparing",
            progress={},
            parent=case((planned, Update.parent), else_=now.version),
            error=None,
            owner=owner,
            token=Update.token + 1,
            lease_until=epoch_now() + lease_s,
            started_at=func.coalesce(Update.started_at, utc_now()),
        )
        .returning(Update.token, Update.parent)
    )
    try:
        with session.begin_nested():
            taken = session.execute(taking).one_or_none()
    except IntegrityError:  # another update is running
        return None
    if taken is None:
        return None
    events.add(session, update_id, "started", {"parent": taken.parent, "worker": owner})
    return Run(update_id, taken.token)


def _spare_known(session: Session, update_id: str, version: int) -> None:
    """Take those facts out of a queued update that the version's lineage has proven already.

    They were put in line again after a rollback that was itself undone. No fact is proven twice on
    one path, but for one that a version in between had lost: all that are trained go through here.
    """
    proof = aliased(UpdateFact)
    line = activations.line_of(version)
    query = (
        select(UpdateFact.fact_id)
        .join(Update, Update.id == UpdateFact.update_id)
        .join(proof, proof.fact_id == UpdateFact.fact_id)
        .join(Checkpoint, Checkpoint.update_id == proof.update_id)
        .where(Update.id == update_id, Update.kind != "rebuild", UpdateFact.active)
        .where(proof.proven.is_(True), Checkpoint.version.in_(line))
        .where(~lapses.lost_since(proof.fact_id, Checkpoint.version, line))
    )
    known = session.scalars(query).all()
    locked = updates.lock(session, update_id) if known else None
    if locked is None or locked.status != "queued":
        return
    held = (UpdateFact.update_id == update_id, UpdateFact.fact_id.in_(known))
    session.execute(update(UpdateFact).where(*held).values(active=False))
    training = (Fact.id.in_(known), Fact.status == "training")
    session.execute(update(Fact).where(*training).values(status="trained"))


def heartbeat(session: Session, run: Run, lease_s: float) -> bool | None:
    """Renew the lease; return whether to cancel, or None when the run is no longer ours."""
    renewing = _ours(run).values(lease_until=epoch_now() + lease_s)
    return session.scalar(renewing.returning(Update.cancel_requested))


def watch(session: Session, run: Run) -> bool | None:
    """Return what `heartbeat` does, but only look."""
    ours = (Update.id == run.update_id, Update.token == run.token, Update.status == "running")
    return session.scalar(select(Update.cancel_requested).where(*ours))


def report(session: Session, run: Run, progress: JsonObject) -> None:
    """Show what the trainer told: its phase and, where it counts steps, how far it is."""
    shown: JsonObject = {"phase": progress["phase"]}
    if total := progress.get("total_steps"):
        names = ("step", "total_steps", "eta_s", "loss")
        shown["progress"] = {name: progress.get(name) for name in names}
        shown["progress"]["percent"] = round(100 * progress["step"] / total, 1)
    row = session.scalar(_ours(run).values(**shown).returning(Update.id))
    if row is not None:
        events.add(session, run.update_id, "progress", progress)


def release(
    session: Session, run: Run, reason: str, error: JsonObject | None = None
) -> Update | None:
    """Give a running update back to the queue; `error` (`type`, `detail`) is shown meanwhile."""
    if (locked := lock(session, run)) is not None:
        _requeue(session, locked, reason, error)
    return locked


def abandon(session: Session, run: Run) -> Update | None:
    """End a running update whose cancellation was asked for, or whose facts are all gone."""
    if (locked := lock(session, run)) is not None:
        updates.cancel(session, locked)
    return locked


def fail(session: Session, run: Run, error: JsonObject) -> Update | None:
    """Count a trainer failure: queue again, or split, or give the one fact up.

    `error` has `type` and `detail`, and `fact_ids` where the trainer knows who is to blame.
    """
    locked = lock(session, run)
    if locked is None:
        return None
    locked.attempt += 1
    facts = training_facts(session, locked.id)
    if locked.cancel_requested or (not facts and locked.kind != "consolidate"):
        updates.cancel(session, locked)
        return locked
    shown: JsonObject = {key: error[key] for key in ("type", "detail", "fact_ids") if key in error}
    hopeless = error["type"] in UNTRAINABLE
    blamed = [fact_id for fact_id in facts if hopeless and fact_id in error.get("fact_ids", ())]
    if not blamed and locked.attempt < MOST_ATTEMPTS:
        _requeue(session, locked, "trainer_failed", shown)
        return locked
    if error["type"] in NOBODYS:
        locked.error = shown
        updates.give_back(session, locked, "failed")
        return locked
    blamed = blamed or (facts if len(facts) == 1 else [])
    failed = update(Fact).where(Fact.id.in_(blamed))
    session.execute(failed.values(status="failed", error=error["detail"]))
    spared = [fact_id for fact_id in facts if fact_id not in blamed]
    middle = 0 if blamed else len(spared) // 2
    parts = [part for part in (spared[:middle], spared[middle:]) if part]
    if locked.kind == "rebuild":
        # What a smaller one leaves out waits to be learned on top of it. One of no facts at all
        # can't fail, so what was withdrawn leaves the weights in the end.
        parts = [spared if blamed else spared[:middle]]
    _continue(session, locked, shown, parts)
    return locked


def requeue_expired(session: Session) -> None:
    """Queue every update again whose runner let its lease run out."""
    expired = (Update.status == "running", Update.lease_until < epoch_now())
    for update_id, token in session.execute(select(Update.id, Update.token).where(*expired)):
        release(session, Run(update_id, token), "lease_expired")


def next_queued(session: Session) -> str | None:
    """Return the oldest queued update, or None while one is running."""
    running = select(Update.id).where(Update.status == "running").limit(1)
    if session.scalar(running) is not None:
        return None
    queued = select(Update.id).where(Update.status == "queued").order_by(Update.id)
    return session.scalar(queued.limit(1))


def tokens(session: Session, update_ids: Sequence[str]) -> dict[str, int]:
    """Map those of the updates that are queued or running to the token that counts."""
    live = (Update.id.in_(update_ids), Update.status.in_(updates.LIVE_UPDATE))
    rows = session.execute(select(Update.id, Update.token).where(*live))
    return {row.id: row.token for row in rows}


def lock(session: Session, run: Run) -> Update | None:
    """Lock a run's update and facts for its last write; None when the run is no longer ours."""
    row = updates.lock(session, run.update_id)
    ours = row is not None and row.token == run.token and row.status == "running"
    return row if ours else None


def training_facts(session: Session, update_id: str) -> list[str]:
    """Return the facts of a live update that are still to be trained, oldest first."""
    query = select(Fact.id).join(UpdateFact, UpdateFact.fact_id == Fact.id).order_by(Fact.id)
    live = (UpdateFact.update_id == update_id, UpdateFact.active, Fact.status.in_(TAUGHT))
    return list(session.scalars(query.where(*live)))


def _ours(run: Run) -> Statement:
    ours = (Update.id == run.update_id, Update.token == run.token, Update.status == "running")
    return update(Update).where(*ours)


def _requeue(
    session: Session, locked: Update, reason: str, error: JsonObject | None = None
) -> None:
    if locked.cancel_requested:
        updates.cancel(session, locked)
        return
    locked.status, locked.phase, locked.progress = "queued", None, {}
    locked.owner, locked.lease_until, locked.error = None, None, error
    data = {"reason": reason, "attempt": locked.attempt, "error": error}
    events.add(session, locked.id, "requeued", data)


def _continue(session: Session, failed: Update, error: JsonObject, parts: list[list[str]]) -> None:
    """Fail an update and queue new ones for parts of it, so that one bad fact stops no other."""
    following = [
        Update(
            id=new_id("update"),
            kind=failed.kind,
            recipe=failed.recipe,
            parent=failed.parent if failed.kind == "rebuild" else None,
            replaces=failed.replaces,
            activation=failed.activation,
            created_by=failed.created_by,
        )
        for _ in parts
    ]
    failed.error = {**error, "continued_by": [row.id for row in following]}
    updates.finish(session, failed, "failed")
    for row, part in zip(following, parts, strict=True):
        updates.enlist(session, row, part)
