"""Updates as clients see them: opened, listed, cancelled, retried.

Writers lock an update's facts before the update (`lock`), so that no two wait for each other.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, case, select, update
from sqlalchemy.orm import Session

from app.db import utc_now
from app.errors import Conflict, NotFound, Unavailable
from app.models import Checkpoint, Fact, Update, UpdateFact
from app.recipe import Recipe
from app.services import activations, audit, events, lapses, recipes, waiting
from app.services.audit import SYSTEM, Actor
from app.services.pages import Page, fetch_page

LIVE_UPDATE = ("queued", "running")


def open_update(
    session: Session,
    actor: Actor,
    *,
    fact_ids: Sequence[str] | None = None,
    recipe: Recipe | None = None,
    activation: str = "auto",
    cap: int = 256,
) -> tuple[Update, bool]:
    """Open an update of the given facts, or of at most `cap` that wait, oldest first.

    `recipe` needs to set only what differs from the base model's defaults. Returns the update and
    whether it is new: where nothing waits, the youngest queued or running one is returned.
    Raises `Conflict` (nothing to do; a fact doesn't wait), `Invalid` (no such fact, too many) and
    `Unavailable` (no base model yet).
    """
    chosen = recipes.choose(session, recipe)
    if fact_ids is not None:
        ids = waiting.take_named(session, fact_ids, cap)
    elif not (ids := waiting.take_oldest(session, cap)):
        return _find_live(session), False
    opened = Update(recipe=chosen.model_dump(), activation=activation, created_by=actor.key_id)
    enlist(session, opened, ids)
    audit.record(session, actor, "update.open", opened.id, after={"facts": len(ids)})
    return opened, True


def has_live(session: Session) -> bool:
    """Say whether an update is queued or running."""
    live = select(Update.id).where(Update.status.in_(LIVE_UPDATE)).limit(1)
    return session.scalar(live) is not None


def open_oldest(session: Session, cap: int, recipe: Recipe | None = None) -> Update | None:
    """Open an update of what is pending; None where another was first, or there is no base."""
    try:
        opened, created = open_update(session, SYSTEM, recipe=recipe, cap=cap)
    except (Conflict, Unavailable):
        return None
    return opened if created else None


def enlist(session: Session, opened: Update, fact_ids: Sequence[str]) -> None:
    """Add a queued update and make the facts, locked by the caller, its own.

    Those of a rebuild stay trained: current contains them as long as it runs.
    """
    session.add(opened)
    session.flush()
    session.add_all(UpdateFact(update_id=opened.id, fact_id=fact_id) for fact_id in fact_ids)
    session.flush()
    if opened.kind != "rebuild":
        taken = update(Fact).where(Fact.id.in_(fact_ids))
        session.execute(taken.values(status="training", error=None))
    events.add(session, opened.id, "queued", {"facts": len(fact_ids)})


def get(session: Session, update_id: str) -> Update:
    """Return an update or raise `NotFound`."""
    found = session.get(Update, update_id)
    if found is None:
        raise NotFound(f"There is no update {update_id}.")
    return found


def list_updates(
    session: Session, page: Page, status: str | None = None
) -> tuple[Sequence[Update], bool]:
    """Return one page of updates, and whether there are more."""
    return fetch_page(session, Update, page, [Update.status == status] if status else [])


def facts_of(session: Session, update_ids: Sequence[str]) -> dict[str, list[str]]:
    """Map each update to its facts' ids, oldest first."""
    query = select(UpdateFact.update_id, UpdateFact.fact_id).order_by(UpdateFact.fact_id)
    found: dict[str, list[str]] = {update_id: [] for update_id in update_ids}
    for update_id, fact_id in session.execute(query.where(UpdateFact.update_id.in_(update_ids))):
        found[update_id].append(fact_id)
    return found


def versions_of(session: Session, update_ids: Sequence[str]) -> dict[str, int]:
    """Map each update that made a checkpoint to its version."""
    made = select(Checkpoint).where(Checkpoint.update_id.in_(update_ids))
    return {row.update_id: row.version for row in session.scalars(made) if row.update_id}


def request_cancel(session: Session, actor: Actor, update_id: str) -> Update:
    """Cancel a queued update at once; ask a running one's worker to stop. Ended: `Conflict`."""
    found = lock(session, update_id)
    if found is None:
        raise NotFound(f"There is no update {update_id}.")
    if found.status not in LIVE_UPDATE:
        raise Conflict(f"Update {update_id} is {found.status} already.")
    if found.cancel_requested:
        return found
    found.cancel_requested = True
    audit.record(session, actor, "update.cancel", update_id, before={"status": found.status})
    if found.status == "queued":
        cancel(session, found)
    else:
        events.add(session, update_id, "cancelling", {})
    return found


def stop(session: Session, actor: Actor, *where: ColumnElement[bool]) -> None:
    """Ask running updates of these facts, about to be withdrawn, to stop; queued ones find out.

    Several facts and those of their updates are locked before, so that all are in id order.
    """
    taught = select(UpdateFact.update_id).join(Fact, Fact.id == UpdateFact.fact_id).distinct()
    taught = taught.where(*where, UpdateFact.active).order_by(UpdateFact.update_id)
    for update_id in session.scalars(taught).all():
        # One that is being claimed reads `queued` until its row can be locked.
        locked = lock(session, update_id)
        if locked is not None and locked.status == "running":
            request_cancel(session, actor, update_id)


def retry(session: Session, actor: Actor, update_id: str) -> Update:
    """Open a new update with what of a failed one waits or has failed, and holds now."""
    failed = get(session, update_id)
    if failed.status != "failed":
        raise Conflict(f"Update {update_id} is {failed.status}; only a failed one can be retried.")
    if failed.kind == "rebuild":
        raise Conflict(f"Rebuild {update_id} isn't retried; open another one where none follows.")
    if failed.kind == "consolidate":
        raise Conflict("A consolidation has no facts to try again: open another one.")
    rows = session.execute(
        select(Fact.id, Fact.prompt)
        .join(UpdateFact, UpdateFact.fact_id == Fact.id)
        .where(
            UpdateFact.update_id == update_id,
            Fact.status.in_((*waiting.TAKEN, "failed")),
            waiting.is_valid(),
            ~waiting.is_busy(),
        )
        .order_by(Fact.id)
        .with_for_update(of=Fact)
    ).all()
    if not rows:
        raise Conflict(f"None of the facts of update {update_id} waits to be trained.")
    alone = waiting.only_prompt(row.prompt for row in rows)
    ids = [row.id for row in rows if alone is None or row.prompt is None]
    if not ids:
        raise Conflict(waiting.ONE_PROMPT)
    opened = Update(kind=failed.kind, recipe=failed.recipe, activation=failed.activation)
    opened.created_by = actor.key_id
    session.execute(update(Fact).where(Fact.id.in_(ids)).values(tries=0))
    enlist(session, opened, ids)
    audit.record(session, actor, "update.retry", update_id, after={"update": opened.id})
    return opened


def lock(session: Session, update_id: str) -> Update | None:
    """Read an update anew, locked against other writers, as its training facts are."""
    held = select(UpdateFact.fact_id).where(UpdateFact.update_id == update_id, UpdateFact.active)
    session.execute(
        select(Fact.id).where(Fact.id.in_(held)).order_by(Fact.id).with_for_update(of=Fact)
    )
    return session.get(Update, update_id, with_for_update=True, populate_existing=True)


def cancel(session: Session, locked: Update) -> None:
    """End a locked update as cancelled; its facts wait again."""
    give_back(session, locked, "cancelled")


def give_back(session: Session, locked: Update, status: str) -> None:
    """End a locked update that has taught nothing; its facts wait again."""
    held = select(UpdateFact.fact_id).where(UpdateFact.update_id == locked.id, UpdateFact.active)
    training = update(Fact).where(Fact.id.in_(held), Fact.status == "training")
    now = activations.current(session)
    known = lapses.proved_in(activations.line_of(now.version if now else None))
    session.execute(training.values(status=case((known, "lapsed"), else_="pending")))
    finish(session, locked, status)


def cancel_stale(session: Session, update_id: str) -> None:
    """Cancel an update that was planned for another current version, if it is queued still."""
    locked = lock(session, update_id)
    if locked is not None and locked.status == "queued":
        locked.error = {"type": "stale", "detail": "What is current has changed."}
        cancel(session, locked)


def finish(session: Session, locked: Update, status: str, version: int | None = None) -> None:
    """End a locked update: its facts are free for another one, its watchers are told."""
    locked.status, locked.finished_at = status, utc_now()
    locked.owner = locked.lease_until = None
    session.execute(
        update(UpdateFact)
        .where(UpdateFact.update_id == locked.id, UpdateFact.active)
        .values(active=False)
    )
    data = {"status": status, "outcome": locked.outcome, "version": version}
    events.add(session, locked.id, "finished", {**data, "error": locked.error})


def _find_live(session: Session) -> Update:
    query = select(Update).where(Update.status.in_(LIVE_UPDATE)).order_by(Update.id.desc())
    live = session.scalar(query.limit(1))
    if live is None:
        raise Conflict(
            "No fact is pending (one example waits for others), and no update is under way."
        )
    return live
