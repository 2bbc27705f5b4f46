"""What waits for an update: when it is due, and which facts one takes."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, exists, or_, select
from sqlalchemy.orm import Session, aliased

from app.db import utc_now
from app.errors import Conflict, Invalid
from app.models import Fact, UpdateFact

TAKEN = ("pending", "lapsed")  # statuses of facts that an update takes, in this order
ONE_PROMPT = "All examples have one prompt: none would be left to be asked."
LOOKED_AT = 256  # facts at least, each time it is asked whether an update is due


def is_due(session: Session, *, facts: int, wait_s: float) -> bool:
    """Say whether `facts` wait, or one has for `wait_s` seconds."""
    # Since its row last changed: one that wasn't proven waits again. What lapsed waits for others.
    waits = (Fact.status == "pending", is_valid())
    pending = select(Fact.id, Fact.prompt, Fact.updated_at).where(*waits).order_by(Fact.id)
    since = [row.updated_at for row in _provable(session, pending.limit(max(facts, LOOKED_AT)))]
    due = utc_now() - timedelta(seconds=wait_s)
    return len(since) >= facts or any(at <= due for at in since)


def take_oldest(session: Session, cap: int) -> Sequence[str]:
    """Take what is pending, and of what lapsed as much as there is room for."""
    ids = list[str]()
    for status in TAKEN:
        waiting = select(Fact.id, Fact.prompt).where(Fact.status == status, is_valid(), ~is_busy())
        found = _provable(session, waiting.order_by(Fact.id).limit(cap - len(ids)))
        ids += [row.id for row in found]
    taken = select(Fact.id).where(Fact.id.in_(ids), Fact.status.in_(TAKEN), ~is_busy())
    # Of two that open at the same time, the second waits and then finds these taken.
    return session.scalars(taken.order_by(Fact.id).with_for_update()).all()


def take_named(session: Session, fact_ids: Sequence[str], cap: int) -> Sequence[str]:
    """Take these facts, locked; raises `Invalid` and `Conflict` as `updates.open_update` does."""
    if len(set(fact_ids)) > cap:
        raise Invalid(f"An update takes at most {cap} facts.", pointer="/fact_ids")
    query = select(Fact.id, Fact.status, Fact.prompt).where(Fact.id.in_(fact_ids))
    rows = session.execute(query.order_by(Fact.id).with_for_update()).all()
    found = {row.id: row.status for row in rows}
    busy = set(session.scalars(select(Fact.id).where(Fact.id.in_(fact_ids), is_busy())))
    invalid = set(session.scalars(select(Fact.id).where(Fact.id.in_(fact_ids), ~is_valid())))
    for index, fact_id in enumerate(fact_ids):
        if fact_id not in found:
            raise Invalid("There is no such fact.", pointer=f"/fact_ids/{index}")
        if found[fact_id] not in TAKEN:
            raise Conflict(
                f"Fact {fact_id} is {found[fact_id]}; only a pending or lapsed one is taken.",
                pointer=f"/fact_ids/{index}",
            )
        if fact_id in invalid:
            raise Conflict("The fact isn't valid now.", pointer=f"/fact_ids/{index}")
        if fact_id in busy:
            raise Conflict("A rebuild is teaching the fact.", pointer=f"/fact_ids/{index}")
    if only_prompt(row.prompt for row in rows) is not None:
        raise Conflict(ONE_PROMPT, pointer="/fact_ids")
    return list(found)


def is_busy() -> ColumnElement[bool]:
    """Build the condition that a live update has a fact, as a rebuild may have a lapsed one."""
    part = aliased(UpdateFact)
    return exists(select(part.fact_id).where(part.fact_id == Fact.id, part.active))


def _provable(
    session: Session, waiting: Select[*tuple[Any, ...]]
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Run a query of what waits, without examples where all that wait have one prompt.

    Of an update's prompts some are only asked: what has a single one is all taught, and proves
    nothing. So one of another prompt comes along, however late it is in line. The rows have their
    fact's ``prompt``.
    """
    rows = session.execute(waiting).all()
    if (only := only_prompt(row.prompt for row in rows)) is None:
        return rows
    other = session.execute(waiting.where(Fact.prompt != only).limit(1)).first()
    if other is not None and len(rows) > 1:
        keeps = only_prompt(row.prompt for row in rows[:-1]) is not None
        return [*(rows[:-1] if keeps else [*rows[:-2], rows[-1]]), other]
    return session.execute(waiting.where(Fact.prompt.is_(None))).all()


def only_prompt(prompts: Iterable[str | None]) -> str | None:
    """Return the prompt that all examples among some facts have; None where there are two."""
    known = {prompt for prompt in prompts if prompt is not None}
    return known.pop() if len(known) == 1 else None


def is_valid() -> ColumnElement[bool]:
    """Build the condition that a fact's dates hold now: what isn't true yet isn't taught."""
    now = utc_now()
    begun = or_(Fact.valid_from.is_(None), Fact.valid_from <= now)
    return and_(begun, or_(Fact.valid_until.is_(None), Fact.valid_until > now))
