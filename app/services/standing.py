"""Where a fact stands for its readers: its stored status seen from the current version."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, ScalarSelect, Select, exists, select
from sqlalchemy.orm import Session

from app.models import Activation, Checkpoint, Fact, UpdateFact
from app.services.activations import ancestry, served


@dataclass(frozen=True)
class Standing:
    """A fact's status on the wire, and the version that learned it."""

    status: str
    version: int | None


def _current() -> ScalarSelect[int]:
    return select(Activation.version).order_by(Activation.id.desc()).limit(1).scalar_subquery()


def _learned_in(versions: Select[int]) -> ColumnElement[bool]:
    return exists(
        select(UpdateFact.fact_id)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(
            UpdateFact.fact_id == Fact.id,
            UpdateFact.proven.is_(True),
            Checkpoint.version.in_(versions),
        )
    )


def has_status(status: str) -> ColumnElement[bool]:
    """Build the condition under which a fact reads this status."""
    in_current = _learned_in(select(ancestry(Checkpoint.version == _current()).c.version))
    in_served = _learned_in(select(served().c.version))
    conditions = {
        "learned": (Fact.status == "trained") & in_current,
        "held": (Fact.status == "trained") & ~in_served,
        "rolled_back": (Fact.status == "trained") & in_served & ~in_current,
        "retracting": (Fact.status == "retracted") & in_current,
        "retracted": (Fact.status == "retracted") & ~in_current,
    }
    return conditions.get(status, Fact.status == status)


def find_standings(session: Session, facts: Sequence[Fact]) -> dict[str, Standing]:
    """Say where each fact stands, by id; two queries however many facts."""
    proven = _find_versions(session, [fact.id for fact in facts])
    now: set[int] = set()
    past: set[int] = set()
    if proven:
        now.update(session.scalars(select(ancestry(Checkpoint.version == _current()).c.version)))
        past.update(session.scalars(select(served().c.version)))
    return {fact.id: _stand(fact, proven.get(fact.id, set()), now, past) for fact in facts}


def _find_versions(session: Session, fact_ids: Sequence[str]) -> dict[str, set[int]]:
    rows = session.execute(
        select(UpdateFact.fact_id, Checkpoint.version)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(UpdateFact.fact_id.in_(fact_ids), UpdateFact.proven.is_(True))
    )
    versions: dict[str, set[int]] = {}
    for fact_id, version in rows:
        versions.setdefault(fact_id, set()).add(version)
    return versions


def _stand(fact: Fact, proven: set[int], now: set[int], past: set[int]) -> Standing:
    if fact.status not in ("trained", "superseded", "retracted"):
        return Standing(fact.status, None)
    version = max(proven & now or proven, default=None)
    status = fact.status
    if status == "trained":
        status = "learned" if proven & now else "rolled_back" if proven & past else "held"
    elif status == "retracted" and proven & now:
        status = "retracting"
    return Standing(status, version)
