"""One row per Idempotency-Key, in the transaction of the work that it guards."""

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import utc_now
from app.errors import Invalid
from app.models import Idempotency

KEPT = timedelta(days=7)


class KeyReused(Invalid):
    """This Idempotency-Key was used for another request."""


def sweep(session: Session) -> None:
    """Forget what is older than KEPT."""
    session.execute(delete(Idempotency).where(_is_old()))


def _is_old() -> ColumnElement[bool]:
    return Idempotency.created_at < utc_now() - KEPT


def is_answered(session: Session, owner: str, key: str) -> bool:
    """Say whether a key's first use is committed, whatever it was used for."""
    mine = (Idempotency.owner == owner, Idempotency.key == key, ~_is_old())
    return session.scalar(select(Idempotency.key).where(*mine)) is not None


def begin(session: Session, owner: str, key: str, fingerprint: str) -> tuple[Idempotency, bool]:
    """Take the key for this transaction, or find what its first use answered; say if it is new.

    While another transaction holds the key, this waits: on SQLite for the write lock, on Postgres
    in the insert. If the other rolls back, the key is free. Raises KeyReused for another request.
    """
    mine = (Idempotency.owner == owner, Idempotency.key == key)
    session.execute(delete(Idempotency).where(*mine, _is_old()))
    row = Idempotency(owner=owner, key=key, fingerprint=fingerprint)
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        row = session.get_one(Idempotency, (owner, key))
        if row.fingerprint != fingerprint:
            raise KeyReused(pointer="/Idempotency-Key") from None
        return row, False
    return row, True
