"""What is current: an append-only ledger whose last row says which version answers.

Each row names the one it follows, and that name is unique: of two acts that saw the same current
version, one wins and the other gets a conflict. No fact row changes here, but those of facts that
the new version is known to have lost (`lapses`), or a rebuild to have left out.
"""

from collections.abc import Sequence

from sqlalchemy import CTE, ColumnElement, Select, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.models import Activation, Checkpoint, Fact, Update, UpdateFact
from app.services import audit, lapses
from app.services.audit import Actor
from app.services.pages import Page, fetch_page

AT_ONCE = 500  # ids in one statement


class CurrentMoved(Conflict):
    """Another version became current meanwhile."""


def current(session: Session) -> Activation | None:
    """Return the ledger's last row; None before a base model is registered."""
    return session.scalar(select(Activation).order_by(Activation.id.desc()).limit(1))


def list_activations(session: Session, page: Page) -> tuple[Sequence[Activation], bool]:
    """Return one page of the ledger, and whether there is more."""
    return fetch_page(session, Activation, page)


def replaced_versions(session: Session, rows: Sequence[Activation]) -> dict[int, int]:
    """Map each row's id to the version that it replaced; the first row has none."""
    before = select(Activation.id, Activation.version).where(
        Activation.id.in_({row.previous_id for row in rows})
    )
    versions = dict(session.execute(before).all())
    return {row.id: versions[row.previous_id] for row in rows if row.previous_id in versions}


def activate(
    session: Session,
    actor: Actor,
    version: int,
    *,
    kind: str,
    reason: str | None = None,
    expected_current: int | None = None,
    allow_retracted: bool = False,
) -> Activation:
    """Make a ready version current and say why; current already: return the present row.

    Raises `NotFound`, `Conflict` (not ready, or it holds a retracted fact), and `CurrentMoved` when
    current isn't `expected_current` or another act got in between; the transaction stays usable.
    """
    last = current(session)
    if expected_current is not None and (last is None or last.version != expected_current):
        now = f"version {last.version}" if last else "empty"
        raise CurrentMoved(f"Expected version {expected_current} to be current; it is {now}.")
    check_ready(session, version)
    if last is not None and last.version == version:
        return last
    line, known = lineage(session, version), lineage(session, last.version) if last else set()
    if not allow_retracted:
        # An update goes on from current: what current contains already, it doesn't bring back.
        _refuse_retracted(session, line - known if kind == "automatic" else line)
    row = Activation(previous_id=last.id if last else 0, version=version, kind=kind)
    row.reason, row.actor = reason, actor.name
    replaced = _replaced_by_new(session, version)
    # Locked first, as a run locks its facts before it makes its version current.
    left = find_left(session, replaced, version) if replaced is not None else []
    append(session, row)
    lapses.begin(session, actor, line_of(version), {*(line - known), version})
    let_wait(session, left)
    audit.record(
        session,
        actor,
        "checkpoint.rollback" if kind == "rollback" else "checkpoint.activate",
        f"v{version}",
        before={"version": last.version} if last else None,
        after={"version": version, "kind": kind},
        reason=reason,
    )
    return row


def find_left(session: Session, replaced: int, version: int) -> Sequence[str]:
    """Lock and return the facts that the replaced version knew and the new one doesn't."""
    line = line_of(version)
    removed = lineage(session, replaced) - set(session.scalars(line))
    known = (Fact.status == "trained", Fact.id.in_(lapses.proven_by(removed)))
    left = select(Fact.id).where(*known, ~lapses.learned_in(line)).order_by(Fact.id)
    return session.scalars(left.with_for_update()).all()


def let_wait(session: Session, fact_ids: Sequence[str]) -> None:
    """Put trained facts in line again; what has lapsed meanwhile waits for others."""
    waiting = update(Fact).values(status="pending", error=None)
    for start in range(0, len(fact_ids), AT_ONCE):
        part = Fact.id.in_(fact_ids[start : start + AT_ONCE])
        session.execute(waiting.where(part, Fact.status == "trained"))


def _replaced_by_new(session: Session, version: int) -> int | None:
    """Return what a version was made to replace; None once it has been current."""
    if session.scalar(select(Activation.id).where(Activation.version == version).limit(1)):
        return None
    made = select(Update.replaces).join(Checkpoint, Checkpoint.update_id == Update.id)
    return session.scalar(made.where(Checkpoint.version == version))


def look_for_lapses(session: Session) -> None:
    """Let facts lapse that current has lost, as far as its activation couldn't."""
    if (now := current(session)) is not None:
        lapses.begin(session, audit.SYSTEM, line_of(now.version), {now.version})


def rollback(
    session: Session,
    actor: Actor,
    *,
    reason: str,
    to: int | None = None,
    expected_current: int | None = None,
) -> Activation:
    """Go back to `to`, or to the version that the last activation (no rollback) replaced.

    Raises as `activate`, and `Conflict` when there is nothing to go back to.
    """
    version = rollback_target(session) if to is None else to
    return activate(
        session, actor, version, kind="rollback", reason=reason, expected_current=expected_current
    )


def rollback_target(session: Session) -> int:
    """Find where a rollback without a target goes; `Conflict` when there is nowhere to go."""
    last = session.scalar(
        select(Activation)
        .where(Activation.kind != "rollback")
        .order_by(Activation.id.desc())
        .limit(1)
    )
    replaced = session.get(Activation, last.previous_id) if last else None
    if replaced is None:
        raise Conflict("There is nothing to roll back to: no version was ever replaced.")
    now = current(session)
    if now is not None and now.version == replaced.version:
        raise Conflict(
            f"Version {now.version} is current already: the last activation is rolled back. "
            "Name an older version with `to`."
        )
    return replaced.version


def append(session: Session, row: Activation) -> None:
    """Insert a row of the ledger, or raise `CurrentMoved` when its predecessor has a successor."""
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        raise CurrentMoved from None


def lineage(session: Session, version: int) -> set[int]:
    """Return a version's ancestors and itself; empty when it is unknown."""
    return set(session.scalars(line_of(version)))


def line_of(version: int | None) -> Select[int]:
    """Build the query behind `lineage`."""
    return select(ancestry(Checkpoint.version == version).c.version)


def ever_current(session: Session) -> set[int]:
    """Return every version in the lineage of one that is or was current."""
    return set(session.scalars(select(served().c.version)))


def served() -> CTE:
    """Build the recursive query (column `version`) behind `ever_current`."""
    return ancestry(Checkpoint.version.in_(select(Activation.version)))


def ancestry(start: ColumnElement[bool]) -> CTE:
    """Build the recursive query (column `version`) of the versions in `start` and above."""
    tree = select(Checkpoint.version, Checkpoint.parent).where(start).cte(recursive=True)
    # One look-up a step; a join would read the whole table at each.
    above = select(Checkpoint.parent).where(Checkpoint.version == tree.c.parent).scalar_subquery()
    # UNION drops rows that were seen: shared ancestors are walked once.
    return tree.union(select(tree.c.parent, above).where(tree.c.parent.is_not(None)))


def check_ready(session: Session, version: int) -> None:
    """Raise `NotFound` or `Conflict` unless the version can serve; lock it against deletion."""
    checkpoint = session.get(Checkpoint, version, with_for_update={"read": True})
    if checkpoint is None:
        raise NotFound(f"There is no version {version}.")
    if checkpoint.status != "ready":
        raise Conflict(f"Version {version} is {checkpoint.status}; only a ready one can serve.")


def _refuse_retracted(session: Session, versions: set[int]) -> None:
    """Raise `Conflict` when an update of these versions trained a retracted fact, proven or not."""
    retracted = session.scalars(
        select(Fact.id)
        .join(UpdateFact, UpdateFact.fact_id == Fact.id)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(Fact.status == "retracted", Checkpoint.version.in_(versions))
        .where(UpdateFact.proven.is_not(None))
        .limit(3)
    ).all()
    if retracted:
        raise Conflict(
            f"The version was trained on facts that are retracted ({', '.join(retracted)} …). "
            "Activate it with `allow_retracted` and a reason if that is meant."
        )
