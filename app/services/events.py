"""What updates report: one row an event, kept for as long as the settings say."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db import utc_now
from app.models import Event, Update
from app.models.base import JsonObject

MOST_SWEPT = 10_000  # at once, so that nobody waits long for the write lock


def add(session: Session, update_id: str, kind: str, data: JsonObject) -> None:
    """Append what happened to an update; the row's id is the SSE event id."""
    session.add(Event(update_id=update_id, type=kind, data=data))


def list_after(
    session: Session, update_id: str, *, after: int = 0, limit: int = 100
) -> Sequence[Event]:
    """Return an update's events beyond `after`, oldest first."""
    query = select(Event).where(Event.update_id == update_id, Event.id > after)
    return session.scalars(query.order_by(Event.id).limit(limit)).all()


def sweep(session: Session, keep_days: float) -> None:
    """Forget what finished updates reported so long ago; how they ended stays in their rows."""
    old = select(Event.id).join(Update, Update.id == Event.update_id)
    old = old.where(Update.finished_at < utc_now() - timedelta(days=keep_days))
    session.execute(delete(Event).where(Event.id.in_(old.limit(MOST_SWEPT))))
