"""Controls: withdrawn facts that are asked about, in proof that they are no longer answered.

A rebuild asks about what it leaves out; an update asks about what its facts superseded, as far as
its parent learned it.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from app.models import Checkpoint, Fact, Proof, Update, UpdateFact
from app.services import activations, rebuilds


def collect(session: Session, update: Update, taught: Sequence[Fact]) -> Sequence[Fact]:
    """Return the facts that a claimed update has to ask about as controls, probes loaded."""
    if update.kind == "rebuild" and update.replaces is not None:
        ids = [fact.id for fact in rebuilds.find_unwanted(session, update.replaces)]
    else:
        ids = list(_superseded(session, update, taught))
    query = select(Fact).where(Fact.id.in_(ids)).order_by(Fact.id)
    return session.scalars(query.options(selectinload(Fact.probes))).all()


def record(session: Session, version: int, answered: Sequence[Proof]) -> set[str]:
    """Store what a version answered to controls; return the superseded facts still answered.

    Those are returned with every fact that has taken their place since, one after the other.
    """
    known = set(
        session.scalars(select(Fact.id).where(Fact.id.in_({row.fact_id for row in answered})))
    )
    rows = [row for row in answered if row.fact_id in known]
    for row in rows:
        row.version, row.origin = version, rebuilds.CONTROL
    session.add_all(rows)
    session.flush()
    failed = {row.fact_id for row in rows if not row.passed}
    return failed | _followers(session, failed)


def _superseded(session: Session, update: Update, taught: Sequence[Fact]) -> set[str]:
    """Find what the facts superseded and the parent's weights may still answer."""
    keys = {fact.key for fact in taught if fact.key}
    line = activations.line_of(update.parent)
    query = (
        select(Fact.id)
        .distinct()
        .join(UpdateFact, UpdateFact.fact_id == Fact.id)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(Fact.key.in_(keys), Fact.status == "superseded", UpdateFact.proven.is_not(None))
        .where(Checkpoint.version.in_(line))
    )
    ids = {fact.id for fact in taught}
    return {old for old in session.scalars(query) if _followers(session, {old}) & ids}


def _followers(session: Session, fact_ids: set[str]) -> set[str]:
    """Return the facts that superseded these, one after the other."""
    found: set[str] = set()
    while fact_ids:
        later = select(Fact.superseded_by).where(Fact.id.in_(fact_ids), Fact.superseded_by != None)  # noqa: E711
        fact_ids = {fact_id for fact_id in session.scalars(later) if fact_id} - found
        found |= fact_ids
    return found
