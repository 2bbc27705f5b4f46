"""The audit trail: one append-only row per act, in the act's own transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import insert
from sqlalchemy.orm import Session

from app.models import Audit
from app.models.base import JsonObject
from app.services.pages import Page, fetch_page


@dataclass(frozen=True)
class Actor:
    """Who acts: an API key, an update (its id as name) or the system itself."""

    name: str
    key_id: str | None = None
    scopes: frozenset[str] = frozenset()
    request_id: str | None = None


SYSTEM = Actor("system")


def record(
    session: Session,
    actor: Actor,
    act: str,
    subject: str,
    *,
    before: JsonObject | None = None,
    after: JsonObject | None = None,
    reason: str | None = None,
) -> None:
    """Add one audit row; caller's transaction."""
    row = Audit(actor=actor.name, act=act, subject=subject, before=before, after=after)
    row.reason, row.request_id = reason, actor.request_id
    session.add(row)


def record_each(
    session: Session,
    actor: Actor,
    act: str,
    changes: Mapping[str, tuple[JsonObject | None, JsonObject]],
    reason: str | None = None,
) -> None:
    """Add one audit row for each subject, given as ``{subject: (before, after)}``, at once."""
    same = {"actor": actor.name, "act": act, "reason": reason, "request_id": actor.request_id}
    rows = [
        {**same, "subject": subject, "before": before, "after": after}
        for subject, (before, after) in changes.items()
    ]
    if rows:
        session.execute(insert(Audit), rows)


def list_acts(
    session: Session,
    page: Page,
    *,
    actor: str | None = None,
    act: str | None = None,
    subject: str | None = None,
) -> tuple[Sequence[Audit], bool]:
    """Return one page of the trail, and whether there is more."""
    where = [Audit.actor == actor] if actor else []
    where += [Audit.act == act] if act else []
    where += [Audit.subject == subject] if subject else []
    return fetch_page(session, Audit, page, where)
