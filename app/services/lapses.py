"""Lapses: a version doesn't answer any more what one above it had learned.

Every update asks a sample of the older facts. What its version has lost is given in context from
the moment it is current, and taught again along with what is new; for itself no update is opened,
or a model that is full would be trained without end.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Select, SQLColumnExpression, exists, select, update
from sqlalchemy.orm import Session, aliased

from app.models import Checkpoint, Fact, Proof, UpdateFact
from app.services import audit
from app.services.audit import Actor
from app.services.results import ProvenFact

# Origins of the proofs that decide whether a fact is known; the others are controls and foils.
DECIDING = ("given", "cloze", "model")


def record(session: Session, checkpoint: Checkpoint, lost: Sequence[ProvenFact]) -> list[str]:
    """Store the proofs that learned facts aren't answered any more; return their ids."""
    asked = Fact.id.in_([fact.id for fact in lost])
    ids = list(session.scalars(select(Fact.id).where(asked, Fact.status == "trained")))
    session.add_all(
        Proof(fact_id=fact.id, version=checkpoint.version, **probe.model_dump())
        for fact in lost
        if fact.id in ids
        for probe in fact.probes
    )
    checkpoint.facts_count -= len(ids)
    return ids


def begin(session: Session, actor: Actor, fact_ids: Sequence[str]) -> None:
    """Let facts that current has lost wait again.

    Not those that a rebuild is about to teach, or that somebody is changing at this moment.
    """
    taught = exists(
        select(UpdateFact.fact_id).where(UpdateFact.fact_id == Fact.id, UpdateFact.active)
    )
    trained = select(Fact.id).where(Fact.id.in_(fact_ids), Fact.status == "trained", ~taught)
    # The caller holds facts already: whoever holds these may be waiting for one of those.
    free = session.scalars(trained.order_by(Fact.id).with_for_update(skip_locked=True)).all()
    session.execute(update(Fact).where(Fact.id.in_(free)).values(status="lapsed", tries=0))
    changes = {fact_id: ({"status": "trained"}, {"status": "lapsed"}) for fact_id in free}
    audit.record_each(session, actor, "fact.lapse", changes)


def lost_since(
    fact_id: SQLColumnExpression[str], version: SQLColumnExpression[int], line: Select[int]
) -> ColumnElement[bool]:
    """Build the condition that a later version of a line was found to have lost a fact."""
    proof = aliased(Proof)
    return exists(
        select(proof.id).where(
            proof.fact_id == fact_id,
            proof.version > version,
            proof.version.in_(line),
            proof.origin.in_(DECIDING),
            proof.passed.is_(False),
        )
    )
