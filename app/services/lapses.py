"""Lapses: a version doesn't answer any more what one above it had learned.

Every update asks a sample of the older facts. What its version has lost is given in context from
the moment it is current, and taught again along with what is new; for itself no update is opened,
or a model that is full would be trained without end.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, SQLColumnExpression, exists, select, update
from sqlalchemy.orm import Session, aliased

from app.models import Checkpoint, Fact, Proof, UpdateFact, is_lost
from app.services import audit
from app.services.audit import Actor
from app.services.results import ProvenFact


def learned_in(versions: Select[int], *, proven: bool = True) -> ColumnElement[bool]:
    """Build the condition that versions of one line know a fact, or were at least taught it.

    They know it if one of them proved it and none after that was found to have lost it.
    """
    verdict: ColumnElement[bool] = UpdateFact.proven.is_not(None)
    if proven:
        lost = lost_since(UpdateFact.fact_id, Checkpoint.version, versions)
        verdict = UpdateFact.proven.is_(True) & ~lost
    return exists(
        select(UpdateFact.fact_id)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(UpdateFact.fact_id == Fact.id, verdict, Checkpoint.version.in_(versions))
    )


def proved_in(line: Select[int]) -> ColumnElement[bool]:
    """Build the condition that a version of a line proved a fact, whether or not it is known still.

    What was only taught to a line, and never proven, can't lapse from it.
    """
    proof = aliased(UpdateFact)
    made = select(Checkpoint.update_id).where(Checkpoint.version.in_(line))
    here = (proof.fact_id == Fact.id, proof.proven.is_(True), proof.update_id.in_(made))
    return exists(select(proof.fact_id).where(*here))


def proven_by(versions: Collection[int]) -> Select[str]:
    """Build the query for the ids of the facts that these very versions proved."""
    query = select(UpdateFact.fact_id).join(
        Checkpoint, Checkpoint.update_id == UpdateFact.update_id
    )
    return query.where(Checkpoint.version.in_(versions), UpdateFact.proven.is_(True))


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
            is_lost(proof),
        )
    )


def find_lost(session: Session, fact_ids: Sequence[str]) -> dict[str, set[int]]:
    """Map facts to the versions that were asked and didn't answer."""
    rows = select(Proof.fact_id, Proof.version).where(Proof.fact_id.in_(fact_ids), is_lost(Proof))
    lost: dict[str, set[int]] = {}
    for fact_id, version in session.execute(rows):
        lost.setdefault(fact_id, set()).add(version)
    return lost


def record(
    session: Session, checkpoint: Checkpoint, line: Select[int], lost: Sequence[ProvenFact]
) -> None:
    """Store the proofs that a version lost what the line above it knew.

    Not of facts that somebody is changing at this moment: the caller holds facts already, and who
    holds these may be waiting for one of those.
    """
    asked = (Fact.id.in_([fact.id for fact in lost]), Fact.status == "trained", learned_in(line))
    free = select(Fact.id).where(*asked).order_by(Fact.id).with_for_update(skip_locked=True)
    ids = set(session.scalars(free))
    session.add_all(
        Proof(fact_id=fact.id, version=checkpoint.version, **probe.model_dump())
        for fact in lost
        if fact.id in ids
        for probe in fact.probes
    )
    checkpoint.facts_count -= len(ids)
    session.flush()


def begin(session: Session, actor: Actor, line: Select[int], fresh: Collection[int]) -> None:
    """Let trained facts wait again that the `fresh` part of a line, now current, has lost.

    Those that somebody is changing at this moment are left to the next look.
    """
    failed = select(Proof.fact_id).where(Proof.version.in_(fresh), is_lost(Proof))
    gone = (Fact.id.in_(failed), Fact.status == "trained", proved_in(line), ~learned_in(line))
    free = select(Fact.id).where(*gone).order_by(Fact.id).with_for_update(skip_locked=True)
    ids = session.scalars(free).all()
    session.execute(update(Fact).where(Fact.id.in_(ids)).values(status="lapsed", tries=0))
    changes = {fact_id: ({"status": "trained"}, {"status": "lapsed"}) for fact_id in ids}
    audit.record_each(session, actor, "fact.lapse", changes)
