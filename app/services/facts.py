"""Facts: submitted, found, retracted, put back in line."""

import hashlib
import zlib
from collections.abc import Sequence
from typing import Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, selectinload

from app.db import utc_now
from app.errors import Conflict, DomainError, Invalid, NotFound
from app.ids import new_id
from app.models import IS_LIVE, LIVE, Fact, Proof, UpdateFact
from app.services import audit, updates
from app.services.audit import Actor
from app.services.pages import Page, fetch_page
from app.services.standing import find_standings, has_status

OnConflict = Literal["supersede", "reject", "keep"]
Status = Literal["pending", "quarantined"]
Replaced = tuple[Fact, str, Fact]  # which, what it was, and by which
_STRIPES = 64
_LOCK_CLASS = 7101


def submit(
    session: Session,
    actor: Actor,
    fact: Fact,
    on_conflict: OnConflict = "supersede",
    status: Status = "pending",
) -> tuple[Fact, bool]:
    """Store a new fact, or find the live one with its text and key; say if it is new.

    ``fact`` is transient with normalised texts. Other live facts with its key are superseded, stay
    beside it, or are a Conflict, as ``on_conflict`` says.
    """
    (result,) = submit_batch(session, actor, [(fact, on_conflict)], status)
    if isinstance(result, DomainError):
        raise result
    return result


def submit_batch(
    session: Session,
    actor: Actor,
    items: Sequence[tuple[Fact, OnConflict]],
    status: Status = "pending",
) -> list[tuple[Fact, bool] | DomainError]:
    """Submit one after the other; a refused one leaves an error in its place and nothing else.

    Two queries find what is known of all, and two statements write what is new: asked and written
    one by one, a batch would take ten times as long.
    """
    facts = [fact for fact, _ in items]
    for fact in facts:
        fact.text_digest = _digest(fact)
    _lock_names(session, facts)
    by_text, by_key = _find_live(session, facts)
    results: list[tuple[Fact, bool] | DomainError] = []
    new: list[Fact] = []
    replaced: list[Replaced] = []
    for fact, on_conflict in items:
        if (known := by_text.get(fact.text_digest)) is not None:
            results.append((known, status == "pending" and _adopt(session, actor, known, fact)))
            continue
        older = by_key.setdefault(fact.key, []) if fact.key else []
        if (refusal := _refuse(fact, older, on_conflict)) is not None:
            results.append(refusal)
            continue
        if on_conflict == "supersede":
            replaced += [(other, other.status, fact) for other in older]
            for other in older:
                # One in training is left to its run; publishing only promotes those in training.
                other.status = "superseded"
                by_text.pop(other.text_digest, None)
            older.clear()
        fact.id, fact.status, fact.created_by = new_id("fact"), status, actor.key_id
        older.append(fact)
        by_text[fact.text_digest] = fact
        new.append(fact)
        results.append((fact, True))
    session.add_all(new)
    session.flush()
    changes = {fact.id: (None, {"key": fact.key}) for fact in new}
    audit.record_each(session, actor, "fact.submit", changes)
    _note_replaced(session, actor, replaced)
    return results


def _refuse(fact: Fact, older: Sequence[Fact], on_conflict: OnConflict) -> DomainError | None:
    """Say why a fact can't have the key of these live ones; None where it can."""
    if older and on_conflict == "reject":
        return Conflict(f"The key is held by {older[0].id}.", pointer="/key")
    now = utc_now()
    if on_conflict == "supersede" and not fact.holds(now):
        for other in (other for other in older if other.holds(now)):  # nobody would be told either
            detail = f"The fact doesn't hold now, but would supersede {other.id}, which does:"
            field = "valid_until" if (fact.valid_from or now) <= now else "valid_from"
            return Invalid(f"{detail} submit it when it does, or `keep` both.", pointer=f"/{field}")
    return None


def _adopt(session: Session, actor: Actor, known: Fact, fact: Fact) -> bool:
    """Give a known fact its new dates; say if it was quarantined: then all, and a place in line.

    Dates count where a fact waits, so a learned one gets them, too: it may wait again.
    """
    before, after = _dates(known), _dates(fact)
    known.valid_from, known.valid_until = fact.valid_from, fact.valid_until
    if quarantined := known.status == "quarantined":
        known.status, known.created_by = "pending", actor.key_id
        known.source, known.details, known.probes = fact.source, fact.details or {}, fact.probes
        before, after = before | {"status": "quarantined"}, after | {"status": "pending"}
    if before != after:
        audit.record(session, actor, "fact.submit", known.id, before=before, after=after)
    return quarantined


def _dates(fact: Fact) -> dict[str, str | None]:
    dates = {"valid_from": fact.valid_from, "valid_until": fact.valid_until}
    return {name: date.isoformat() if date else None for name, date in dates.items()}


def _find_live(
    session: Session, facts: Sequence[Fact]
) -> tuple[dict[str, Fact], dict[str, list[Fact]]]:
    """Return the live facts with the texts of these, by digest, and with their keys, by key."""
    live = select(Fact).where(IS_LIVE).order_by(Fact.id).options(selectinload(Fact.probes))
    same = live.where(Fact.text_digest.in_({fact.text_digest for fact in facts}))
    by_text = {fact.text_digest: fact for fact in session.scalars(same)}
    by_key: dict[str, list[Fact]] = {}
    if keys := {fact.key for fact in facts if fact.key}:
        for fact in session.scalars(live.where(Fact.key.in_(keys))):
            by_key.setdefault(str(fact.key), []).append(fact)
    return by_text, by_key


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
    same = Fact.text_digest.in_({fact.text_digest for fact in facts})
    known = select(Fact.id).where(same | Fact.key.in_(keys), IS_LIVE)
    session.execute(known.order_by(Fact.id).with_for_update())


def _digest(fact: Fact) -> str:
    name = f"{fact.key or ''}\n{fact.text}"
    if fact.prompt is not None:
        name += f"\0{fact.prompt}"  # no text holds this character
    return hashlib.sha256(name.encode()).hexdigest()


def _note_replaced(session: Session, actor: Actor, replaced: Sequence[Replaced]) -> None:
    """Have each superseded fact name its successor, now that both have a row."""
    changes = {}
    for fact, before, newer in replaced:
        fact.superseded_by = newer.id
        after = {"status": "superseded", "superseded_by": newer.id}
        changes[fact.id] = ({"status": before}, after)
    audit.record_each(session, actor, "fact.supersede", changes)


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
    where = [has_status(session, status)] if status else []
    where += [Fact.source == source] if source else []
    where += [Fact.key == key] if key else []
    return fetch_page(session, Fact, page, where, [selectinload(Fact.probes)])


def list_proofs(session: Session, fact_id: str, page: Page) -> tuple[Sequence[Proof], bool]:
    """Return one page of a fact's proofs, or raise NotFound."""
    get(session, fact_id)
    return fetch_page(session, Proof, page, [Proof.fact_id == fact_id])


def retract(session: Session, actor: Actor, fact_id: str, reason: str | None = None) -> Fact:
    """Withdraw a live or superseded fact for good; a second time changes nothing; else Conflict.

    In training: its update is asked to stop, and the other facts return to pending. Trained: it
    reads ``retracting`` for as long as current contains it.
    """
    fact = get(session, fact_id)
    while fact.status != "retracted":
        before = fact.status
        if before not in (*LIVE, "superseded"):
            raise Conflict(f"The fact is {before}; only a live one can be retracted.")
        if before in ("training", "trained", "lapsed", "superseded"):  # all but the first by chance
            updates.stop(session, actor, Fact.id == fact_id)
        # Only from the status that was seen: a runner may have moved it since, then look again.
        move = update(Fact).where(Fact.id == fact_id, Fact.status == before)
        if session.scalar(move.values(status="retracted").returning(Fact.id)):
            changes = {fact_id: ({"status": before}, {"status": "retracted"})}
            audit.record_each(session, actor, "fact.retract", changes, reason)
        session.refresh(fact)
    return fact


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
        if (now := standings[fact_id].status) not in ("failed", "rolled_back"):
            detail = f"The fact is {now}; only failed and rolled-back ones can train again."
            raise Conflict(detail, pointer=pointer)
        if fact_id in busy:
            raise Conflict("A rebuild is teaching the fact already.", pointer=pointer)
    changes = {}
    for fact in facts.values():
        before = {"status": standings[fact.id].status, "tries": fact.tries, "error": fact.error}
        fact.status, fact.tries, fact.error = "pending", 0, None
        changes[fact.id] = (before, {"status": "pending"})
    session.flush()
    audit.record_each(session, actor, "fact.requeue", changes, reason)
    return [facts[fact_id] for fact_id in dict.fromkeys(fact_ids)]
