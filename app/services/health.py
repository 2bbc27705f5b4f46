"""What operators watch: whether a worker lives, how many facts wait."""

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from app.db import epoch_now
from app.models import Fact, WorkerSeen

GONE_S = 3600.0  # a worker's name holds its process id: one that was restarted has a new name


def worker_age_s(session: Session) -> float | None:
    """Return how long ago a worker last looked at the database; None: never."""
    age = session.scalar(select(epoch_now() - func.max(WorkerSeen.seen_at)))
    return None if age is None else max(0.0, age)


def note_worker(session: Session, name: str) -> None:
    """Say that this worker has looked at the database now; a new one drops those long gone."""
    seen = update(WorkerSeen).where(WorkerSeen.name == name).values(seen_at=epoch_now())
    if session.scalar(seen.returning(WorkerSeen.name)) is None:
        gone = WorkerSeen.seen_at < epoch_now() - GONE_S
        session.execute(delete(WorkerSeen).where(gone))
        session.execute(insert(WorkerSeen).values(name=name, seen_at=epoch_now()))


def count_facts(session: Session) -> dict[str, int]:
    """Return how many facts have each stored status."""
    rows = session.execute(select(Fact.status, func.count()).group_by(Fact.status))
    return dict(rows.all())
