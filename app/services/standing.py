"""Where a fact stands for its readers: its stored status seen from the current version."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BindParameter, ColumnElement, ScalarSelect, Select, exists, select
from sqlalchemy.orm import Session

from app.models import Activation, Checkpoint, Fact, UpdateFact
from app.services.activations import ancestry, served

Versions = dict[str, set[int]]


@dataclass(frozen=True)
class Standing:
    """A fact's status on the wire, and the version that learned it."""

    status: str
    version: int | None


def _current() -> ScalarSelect[int]:
    return select(Activation.version).order_by(Activation.id.desc()).limit(1).scalar_subquery()


def learned_in(versions: Select[int], *, proven: bool = True) -> ColumnElement[bool]:
    """Build the condition that one of the versions proved a fact, or at least was taught it."""
    return exists(
        select(UpdateFact.fact_id)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(
            UpdateFact.fact_id == Fact.id,
            UpdateFact.proven.is_(True) if proven else UpdateFact.proven.is_not(None),
            Checkpoint.version.in_(versions),
        )
    )


def _learned_by(*where: ColumnElement[bool]) -> Select[str]:
    made_by = select(Checkpoint.update_id).where(*where)
    return select(UpdateFact.fact_id).where(
        UpdateFact.proven.is_(True), UpdateFact.update_id.in_(made_by)
    )


def has_status(status: str) -> ColumnElement[bool]:
    """Build the condition under which a fact reads this status."""
    current = select(ancestry(Checkpoint.version == _current()).c.version)
    past = select(served().c.version)
    in_current, in_served = learned_in(current), learned_in(past)
    # These two name the few versions beside the line that serves, so that no list or question
    # looks through everything that was ever learned; nor does the index of `trained` do so.
    trained = Fact.status.concat("") == "trained"
    unserved = Fact.id.in_(_learned_by(Checkpoint.version.not_in(past)))
    left = Fact.id.in_(
        _learned_by(Checkpoint.version.in_(past), Checkpoint.version.not_in(current))
    )
    # Weights that were taught a fact may know of it without ever having proven it.
    taught = learned_in(current, proven=False)
    conditions = {
        "learned": (Fact.status == "trained") & in_current,
        "held": trained & unserved & ~in_served,
        "rolled_back": trained & left & ~in_current,
        "retracting": (Fact.status == "retracted") & taught,
        "retracted": (Fact.status == "retracted") & ~taught,
    }
    return conditions.get(status, Fact.status == status)


# Kept: every question runs it, and building it takes longer.
_UNSERVED = select(Checkpoint.version).where(Checkpoint.version.not_in(select(served().c.version)))


def find_unserved(session: Session) -> Sequence[int]:
    """List the versions that lie beside every line that serves or served."""
    return session.scalars(_UNSERVED).all()


def held_in(unserved: BindParameter[Sequence[int]]) -> ColumnElement[bool]:
    """Build the condition that a fact reads `held`, given what `find_unserved` lists."""
    elsewhere = select(Checkpoint.version).where(Checkpoint.version.not_in(unserved))
    held = Fact.id.in_(_learned_by(Checkpoint.version.in_(unserved)))
    return (Fact.status == "trained") & held & ~learned_in(elsewhere)


def find_standings(session: Session, facts: Sequence[Fact]) -> dict[str, Standing]:
    """Say where each fact stands, by id; three queries however many facts."""
    proven, taught = _find_versions(session, [fact.id for fact in facts])
    now: set[int] = set()
    past: set[int] = set()
    if taught:
        now.update(session.scalars(select(ancestry(Checkpoint.version == _current()).c.version)))
        past.update(session.scalars(select(served().c.version)))
    standings = {}
    for fact in facts:
        status = fact.status
        learned = proven.get(fact.id, set())
        if status == "trained":
            status = "learned" if learned & now else "rolled_back" if learned & past else "held"
        elif status == "retracted" and taught.get(fact.id, set()) & now:
            status = "retracting"
        tells_version = fact.status in ("trained", "superseded", "retracted")
        version = max(learned & now or learned, default=None) if tells_version else None
        standings[fact.id] = Standing(status, version)
    return standings


def _find_versions(session: Session, fact_ids: Sequence[str]) -> tuple[Versions, Versions]:
    """Return the versions that proved each fact, and those that were taught it."""
    rows = session.execute(
        select(UpdateFact.fact_id, Checkpoint.version, UpdateFact.proven)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(UpdateFact.fact_id.in_(fact_ids), UpdateFact.proven.is_not(None))
    )
    proven: Versions = {}
    taught: Versions = {}
    for fact_id, version, is_proven in rows:
        taught.setdefault(fact_id, set()).add(version)
        if is_proven:
            proven.setdefault(fact_id, set()).add(version)
    return proven, taught
