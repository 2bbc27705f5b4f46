"""Where a fact stands for its readers: its stored status seen from the current version."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import BindParameter, ColumnElement, Select, select
from sqlalchemy.orm import Session

from app.db import Reader
from app.models import Activation, Checkpoint, Fact, UpdateFact
from app.services.activations import ancestry, served
from app.services.lapses import find_lost, learned_in

ByFact = dict[str, set[int]]
Versions = Sequence[int] | BindParameter[Sequence[int]]


@dataclass(frozen=True)
class Standing:
    """A fact's status on the wire, and the version that learned it."""

    status: str
    version: int | None


def _current_line() -> Select[int]:
    last = select(Activation.version).order_by(Activation.id.desc()).limit(1).scalar_subquery()
    return select(ancestry(Checkpoint.version == last).c.version)


def _learned_beside(versions: Versions, apart: Versions) -> ColumnElement[bool]:
    """Build the condition that one of a few versions proved a trained fact that no other knows.

    It goes from the versions to their facts, never through the index of all that are trained.
    """
    made_by = select(Checkpoint.update_id).where(Checkpoint.version.in_(versions))
    proven = select(UpdateFact.fact_id).where(
        UpdateFact.proven.is_(True), UpdateFact.update_id.in_(made_by)
    )
    others = select(Checkpoint.version).where(Checkpoint.version.not_in(apart))
    trained = Fact.status.concat("") == "trained"
    return trained & Fact.id.in_(proven) & ~learned_in(others)


def has_status(session: Session, status: str) -> ColumnElement[bool]:
    """Build the condition under which a fact reads this status.

    The few versions beside the line that serves are looked up first: not knowing how few they are,
    Postgres would look through everything that was ever learned.
    """
    current = _current_line()
    # Weights that were taught a fact may know of it without ever having proven it.
    taught = learned_in(current, proven=False)
    match status:
        case "learned":
            return (Fact.status == "trained") & learned_in(current)
        case "held":
            return held_in(find_unserved(session))
        case "rolled_back":
            beside = select(Checkpoint.version).where(Checkpoint.version.not_in(current))
            apart = session.scalars(beside).all()
            unserved = find_unserved(session)
            left = sorted(set(apart).difference(unserved))
            return _learned_beside(left, apart) & ~held_in(unserved)
        case "retracting":
            return (Fact.status == "retracted") & taught
        case "retracted":
            return (Fact.status == "retracted") & ~taught
    return Fact.status == status


# Kept: every question runs it, and building it takes longer.
_UNSERVED = select(Checkpoint.version).where(Checkpoint.version.not_in(select(served().c.version)))


def find_unserved(reader: Reader) -> Sequence[int]:
    """List the versions that lie beside every line that serves or served."""
    return reader.scalars(_UNSERVED).all()


def held_in(unserved: Versions) -> ColumnElement[bool]:
    """Build the condition that a fact reads `held`, given what `find_unserved` lists."""
    return _learned_beside(unserved, unserved) & ~learned_in(_current_line())


def find_standings(session: Session, facts: Sequence[Fact]) -> dict[str, Standing]:
    """Say where each fact stands, by id; four queries however many facts."""
    proven, taught = _find_versions(session, [fact.id for fact in facts])
    lost: ByFact = {}
    now: set[int] = set()
    past: set[int] = set()
    if taught:
        lost = find_lost(session, list(taught))
        now.update(session.scalars(_current_line()))
        past.update(session.scalars(select(served().c.version)))
    standings = {}
    for fact in facts:
        status = fact.status
        learned = proven.get(fact.id, set())
        gone = lost.get(fact.id, set())
        known = _know(learned & now, gone & now)
        if status == "trained":
            held = learned - past and not _know(learned & past, gone & past)
            status = "learned" if known else "held" if held else "rolled_back"
        elif status == "retracted" and taught.get(fact.id, set()) & now:
            status = "retracting"
        tells_version = fact.status in ("trained", "superseded", "retracted")
        version = max(known or learned, default=None) if tells_version else None
        standings[fact.id] = Standing(status, version)
    return standings


def _know(learned: set[int], lost: set[int]) -> set[int]:
    """Return those versions that proved a fact and after which none had lost it."""
    return {version for version in learned if version >= max(lost, default=version)}


def _find_versions(session: Session, fact_ids: Sequence[str]) -> tuple[ByFact, ByFact]:
    """Return the versions that proved each fact, and those that were taught it."""
    rows = session.execute(
        select(UpdateFact.fact_id, Checkpoint.version, UpdateFact.proven)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(UpdateFact.fact_id.in_(fact_ids), UpdateFact.proven.is_not(None))
    )
    proven: ByFact = {}
    taught: ByFact = {}
    for fact_id, version, is_proven in rows:
        taught.setdefault(fact_id, set()).add(version)
        if is_proven:
            proven.setdefault(fact_id, set()).add(version)
    return proven, taught
