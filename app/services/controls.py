"""Controls: withdrawn facts that are asked about, in proof that they are no longer answered.

A rebuild asks about what it leaves out, and like any update about what its facts superseded, as far
as its parent was taught it.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Row, Select, select
from sqlalchemy.orm import Session, aliased, selectinload

from app.models import Checkpoint, Fact, Proof, Update
from app.models.checkpoints import FAILED_CONTROL
from app.services import activations, lapses, rebuilds
from app.services.results import Control


def collect(session: Session, update: Update, taught: Sequence[Fact]) -> Sequence[Row[Fact, bool]]:
    """Return the facts that a claimed update has to ask about as controls, probes loaded.

    With each comes whether its parent's weights were taught it.
    """
    seen = lapses.learned_in(activations.line_of(update.parent), proven=False)
    older = _superseded_by([fact.id for fact in taught]).where(Fact.status == "superseded", seen)
    asked: ColumnElement[bool] = Fact.id.in_(older)
    if update.kind == "rebuild" and update.replaces is not None:
        asked |= Fact.id.in_(rebuilds.unwanted(update.replaces))
    query = select(Fact, seen).where(asked).order_by(Fact.id)
    return session.execute(query.options(selectinload(Fact.probes))).all()


def record(session: Session, checkpoint: Checkpoint, answered: Sequence[Control]) -> set[str]:
    """Store what a version answered to controls; return the superseded facts still answered.

    Those are returned with every fact that has taken their place since, one after the other. A
    control is passed where it isn't answered rightly any more. What the parent was never taught
    and answers all the same says nothing.
    """
    seen = _find_seen(session, checkpoint.parent, [fact.id for fact in answered])
    session.add_all(
        Proof(
            fact_id=fact.id,
            version=checkpoint.version,
            origin=rebuilds.CONTROL,
            passed=not probe.passed or (probe.known and not seen[fact.id]),
            **probe.model_dump(exclude={"origin", "passed", "known"}),
        )
        for fact in answered
        if fact.id in seen
        for probe in fact.probes
    )
    session.flush()
    return _with_followers(session, checkpoint.version)


def _find_seen(session: Session, version: int | None, fact_ids: Sequence[str]) -> dict[str, bool]:
    """Say of those that are facts whether a version's weights were taught them."""
    taught = lapses.learned_in(activations.line_of(version), proven=False)
    seen = dict[str, bool]()
    for start in range(0, len(fact_ids), activations.AT_ONCE):
        part = Fact.id.in_(fact_ids[start : start + activations.AT_ONCE])
        seen.update(session.execute(select(Fact.id, taught).where(part)).all())
    return seen


def _superseded_by(fact_ids: Sequence[str]) -> Select[str]:
    """Build the query for the facts that these superseded, one after the other, and these."""
    older = aliased(Fact)
    newer = select(Fact.id, Fact.key).where(Fact.id.in_(fact_ids)).cte(recursive=True)
    # By its key, which all of them have, one is found quickly.
    replaced = (older.key == newer.c.key, older.superseded_by == newer.c.id)
    chain = newer.union(select(older.id, older.key).where(*replaced))
    return select(Fact.id).join(chain, chain.c.id == Fact.id)


def _with_followers(session: Session, version: int) -> set[str]:
    """Return the facts that a version still answers as controls, and those that superseded them."""
    newer = aliased(Fact)
    failed = select(Proof.fact_id).where(Proof.version == version, FAILED_CONTROL)
    older = select(Fact.id, Fact.superseded_by).where(Fact.id.in_(failed)).cte(recursive=True)
    later = select(newer.id, newer.superseded_by).where(newer.id == older.c.superseded_by)
    return set(session.scalars(select(older.union(later).c.id)))
