"""What a person decides about many facts at once: a source withdrawn, quarantined ones reviewed."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy.orm import Session, selectinload

from app.errors import Conflict, NotFound
from app.models import IS_LIVE, Fact, UpdateFact
from app.services import audit, updates
from app.services.audit import Actor

Decision = Literal["approve", "reject"]


def retract_source(session: Session, actor: Actor, source: str, reason: str) -> int:
    """Withdraw every live or superseded fact of a source for good; return how many that were.

    Running updates that teach one of them are asked to stop, as `facts.retract` does.
    """
    taught = select(UpdateFact.update_id).join(Fact, Fact.id == UpdateFact.fact_id)
    taught = taught.where(Fact.source == source, UpdateFact.active).distinct()
    ours = IS_LIVE | (Fact.status == "superseded")  # which the weights may hold still
    live = (Fact.source == source, ours)
    _lock_facts(session, *live, update_ids=session.scalars(taught).all())
    updates.stop(session, actor, *live)
    before = session.execute(select(Fact.id, Fact.status).where(*live)).all()
    session.execute(update(Fact).where(*live).values(status="retracted"))
    changes = {fact_id: ({"status": status}, {"status": "retracted"}) for fact_id, status in before}
    audit.record_each(session, actor, "fact.retract", changes, reason)
    after = {"source": source, "facts": len(before)}
    audit.record(session, actor, "fact.retract_source", "facts", after=after, reason=reason)
    return len(before)


def review(
    session: Session, actor: Actor, fact_ids: Sequence[str], decision: Decision, reason: str
) -> list[Fact]:
    """Let quarantined facts in line, or reject them, all or none; errors name the first.

    Raises `NotFound` (no such fact) and `Conflict` (a fact isn't quarantined).
    """
    query = select(Fact).where(Fact.id.in_(fact_ids)).options(selectinload(Fact.probes))
    facts = {fact.id: fact for fact in session.scalars(query.order_by(Fact.id).with_for_update())}
    for index, fact_id in enumerate(fact_ids):
        pointer = f"/fact_ids/{index}"
        if fact_id not in facts:
            raise NotFound("There is no fact with this id.", pointer=pointer)
        if facts[fact_id].status != "quarantined":
            now = facts[fact_id].status
            raise Conflict(
                f"The fact is {now}; only quarantined ones are reviewed.", pointer=pointer
            )
    for fact in facts.values():
        if decision == "approve":
            fact.status = "pending"
        else:
            fact.status, fact.error = "rejected", reason
        before, after = {"status": "quarantined"}, {"status": fact.status}
        act = "fact.review"
        audit.record(session, actor, act, fact.id, before=before, after=after, reason=reason)
    session.flush()
    return [facts[fact_id] for fact_id in dict.fromkeys(fact_ids)]


def _lock_facts(session: Session, *where: ColumnElement[bool], update_ids: Sequence[str]) -> None:
    """Lock the facts, and with them those of the updates, by id as everywhere."""
    held = select(UpdateFact.fact_id).where(UpdateFact.update_id.in_(update_ids), UpdateFact.active)
    mine = select(Fact.id).where(*where)
    both = select(Fact.id).where(or_(Fact.id.in_(mine), Fact.id.in_(held)))
    session.execute(both.order_by(Fact.id).with_for_update())
