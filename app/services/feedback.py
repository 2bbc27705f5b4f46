"""Feedback: what readers say about answers; a correction waits for review as a fact."""

from sqlalchemy.orm import Session

from app.errors import Invalid
from app.models import Checkpoint, Fact, Feedback
from app.services import audit, facts
from app.services.audit import Actor

SOURCE = "feedback"


def give(session: Session, actor: Actor, row: Feedback) -> tuple[Feedback, Fact | None]:
    """Store a transient row; its correction becomes a quarantined fact, or finds the known one.

    Raises `Invalid` for a version that never was.
    """
    if session.get(Checkpoint, row.version) is None:
        raise Invalid(f"There is no version {row.version}.", pointer="/version")
    fact = None
    if row.correction is not None:
        correction = Fact(text=row.correction, source=SOURCE, details={})
        fact, _ = facts.submit(session, actor, correction, "keep", status="quarantined")
        row.fact_id = fact.id
    row.created_by = actor.key_id
    session.add(row)
    session.flush()
    said = {"version": row.version, "correct": row.correct, "fact": row.fact_id}
    audit.record(session, actor, "feedback.give", row.id, after=said)
    return row, fact
