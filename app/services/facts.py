"""Facts: submitted, found, retracted, put back in line."""

import hashlib
import zlib
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, selectinload

from app.errors import Conflict, DomainError, NotFound
from app.models import LIVE, Fact, Proof, UpdateFact
from app.services import audit, updates
from app.services.audit import Actor
from app.services.pages import Page, fetch_page
from app.services.standing import find_standings, has_status

OnConflict = Literal["supersede", "reject", "keep"]
_STRIPES = 64
_LOCK_CLASS = 7101


def submit(
    session: Session,
    actor: Actor,
    fact: Fact,
    on_conflict: OnConflict = "supersede",
    status: Literal["pending", "quarantined"] = "pending",
) -> tuple[Fact, bool]:
    """Store a new fact, or find the live one with its text and key; say if it is new.

    ``fact`` is transient with normalised texts. Other live facts with its key are superseded, stay
    beside it, or are a Conflict, as ``on_conflict`` says.
    """
    _lock_names(session, [fact])
    return _submit(session, actor, fact, on_conflict, status)


def submit_batch(
    session: Session, actor: Actor, items: Sequence[tuple[Fact, OnConflict]]
) -> list[tuple[Fact, bool] | DomainError]:
    """Submit each on its own: one that fails leaves an error in its place and nothing else."""
    _lock_names(session, [fact for fact, _ in items])
    results: list[tuple[Fact, bool] | DomainError] = []
    for fact, on_conflict in items:
        try:
            with session.begin_nested():
                results.append(_submit(session, actor, fact, on_conflict))
        except DomainError as error:
            results.append(error)
    return results


def _submit(
    session: Session, actor: Actor, fact: Fact, on_conflict: OnConflict, status: str = "pending"
) -> tuple[Fact, bool]:
    fact.text_digest = _digest(fact)
    live = select(Fact).where(Fact.status.in_(LIVE)).order_by(Fact.id)
    known = session.scalar(
        live.where(Fact.text_digest == fact.text_digest).options(selectinload(Fact.probes))
    )
    if known is not None:
        return known, False
    older = session.scalars(live.where(Fact.key == fact.key)).all() if fact.key else []
    if older and on_conflict == "reject":
        raise Conflict(f"The key is held by {older[0].id}.", pointer="/key")
    fact.status, fact.created_by = status, actor.key_id
    session.add(fact)
    session.flush()
    audit.record(session, actor, "fact.submit", fact.id, after={"key": fact.key})
    if on_conflict == "supersede":
        _supersede(session, actor, older, fact)
    return fact, True


def _lock_names(session: Session, facts: Sequence[Fact]) -> None:
    """Make submits of the same text or key wait for each other until commit.

    Nothing to do on SQLite, which has one writer. All locks of a batch are taken first and in
    order, facts by id as everywhere, so that no two transactions wait for each other.
    """
    if session.get_bind().dialect.name != "postgresql":
        return
    keys = {fact.key for fact in facts if fact.key}
    names = {_digest(fact) for fact in facts} | keys
    for stripe in sorted({zlib.crc32(name.encode()) % _STRIPES for name in names}):
        session.execute(select(func.pg_advisory_xact_lock(_LOCK_CLASS, stripe)))
    if keys:
        older = select(Fact.id).where(Fact.key.in_(keys), Fact.status.in_(LIVE))
        session.execute(older.order_by(Fact.id).with_for_update())


def _digest(fact: Fact) -> str:
    name = f"{fact.key or ''}\n{fact.text}"
    if fact.prompt is not None:
        name += f"\0{fact.prompt}"  # no text holds this character
    return hashlib.sha256(name.encode()).hexdigest()


def _supersede(session: Session, actor: Actor, older: Sequence[Fact], newer: Fact) -> None:
    for fact in older:
        before = fact.status
        # One in training is left to its run; publishing only promotes facts still in training.
        fact.status, fact.superseded_by = "superseded", newer.id
        audit.record(
            session,
            actor,
            "fact.supersede",
            fact.id,
            before={"status": before},
            after={"status": fact.status, "superseded_by": newer.id},
        )


def get(session: Session, fact_id: str) -> Fact:
    """Return a fact with its probes, or raise NotFound."""
    query = select(Fact).where(Fact.id == fact_id).options(selectinload(Fact.probes))
    fact = session.scalar(query)
    if fact is None:
        raise NotFound("There is no fact with this id.")
    return fact


def list_facts(
    session: Session,
    page: Page,
    *,
    status: str | None = None,
    source: str | None = None,
    key: str | None = None,
) -> tuple[Sequence[Fact], bool]:
    """Return one page of facts with their probes; ``status`` as it reads on the wire."""
    where = [has_status(status)] if status else []
    where += [Fact.source == source] if source else []
    where += [Fact.key == key] if key else []
    return fetch_page(session, Fact, page, where, [selectinload(Fact.probes)])


def list_proofs(session: Session, fact_id: str, page: Page) -> tuple[Sequence[Proof], bool]:
    """Return one page of a fact's proofs, or raise NotFound."""
    get(session, fact_id)
    return fetch_page(session, Proof, page, [Proof.fact_id == fact_id])


def retract(session: Session, actor: Actor, fact_id: str, reason: str | None = None) -> Fact:
    """Withdraw a live fact for good; a second time changes nothing; otherwise Conflict.

    In training: its update is asked to stop, and the other facts return to pending. Trained: it
    reads ``retracting`` for as long as current contains it.
    """
    fact = get(session, fact_id)
    while fact.status != "retracted":
        before = fact.status
        if before not in LIVE:
            raise Conflict(f"The fact is {before}; only a live one can be retracted.")
        if before in ("training", "trained"):  # the latter may be taught again by a rebuild
            _stop_training(session, actor, fact_id)
        # Only from the status that was seen: a runner may have moved it since, then look again.
        move = update(Fact).where(Fact.id == fact_id, Fact.status == before)
        if session.scalar(move.values(status="retracted").returning(Fact.id)):
            was, now = {"status": before}, {"status": "retracted"}
            audit.record(
                session, actor, "fact.retract", fact_id, before=was, after=now, reason=reason
            )
        session.refresh(fact)
    return fact


def _stop_training(session: Session, actor: Actor, fact_id: str) -> None:
    """Ask a running update to stop; a queued one simply finds the fact gone."""
    held = select(UpdateFact.update_id).where(UpdateFact.fact_id == fact_id, UpdateFact.active)
    update_id = session.scalar(held)
    locked = updates.lock(session, update_id) if update_id else None
    if locked is not None and locked.status == "running":
        updates.request_cancel(session, actor, locked.id)


def requeue(session: Session, actor: Actor, fact_ids: Sequence[str], reason: str) -> list[Fact]:
    """Put failed and rolled-back facts in line again, all or none; Conflict names the first."""
    query = select(Fact).where(Fact.id.in_(fact_ids)).options(selectinload(Fact.probes))
    facts = {fact.id: fact for fact in session.scalars(query.order_by(Fact.id).with_for_update())}
    standings = find_standings(session, list(facts.values()))
    taught = select(UpdateFact.fact_id).where(UpdateFact.fact_id.in_(fact_ids), UpdateFact.active)
    busy = set(session.scalars(taught))
    for index, fact_id in enumerate(fact_ids):
        pointer = f"/fact_ids/{index}"
        if fact_id not in facts:
            raise NotFound("There is no fact with this id.", pointer=pointer)
        if standings[fact_id].status not in ("failed", "rolled_back"):
            raise Conflict(
                f"The fact is {standings[fact_id].status}; "
                "only failed and rolled-back ones can train again.",
                pointer=pointer,
            )
        if fact_id in busy:
            raise Conflict("A rebuild is teaching the fact already.", pointer=pointer)
    for fact in facts.values():
        before = {"status": standings[fact.id].status, "tries": fact.tries, "error": fact.error}
        fact.status, fact.tries, fact.error = "pending", 0, None
        after = {"status": "pending"}
        audit.record(
            session, actor, "fact.requeue", fact.id, before=before, after=after, reason=reason
        )
    session.flush()
    return [facts[fact_id] for fact_id in dict.fromkeys(fact_ids)]
