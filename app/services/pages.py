"""Lists in pages: keyset on the primary key, so that no page shifts while rows are added."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from sqlalchemy import ColumnElement, inspect, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.interfaces import ORMOption

from app.errors import Invalid

Row = TypeVar("Row")


@dataclass(frozen=True)
class Page:
    """Which part of a list: at most ``limit`` rows beyond the row ``after``."""

    after: Any = None
    limit: int = 20
    order: Literal["asc", "desc"] = "desc"


def fetch_page(
    session: Session,
    model: type[Row],
    page: Page,
    where: Sequence[ColumnElement[bool]] = (),
    options: Sequence[ORMOption] = (),
) -> tuple[Sequence[Row], bool]:
    """Return the page's rows and whether more follow; Invalid names an unknown ``after``."""
    key = inspect(model).primary_key[0]
    query = select(model).where(*where).options(*options)
    if page.after is not None:
        if session.scalar(select(key).where(key == page.after)) is None:
            raise Invalid(f"There is no {page.after} to go on after.", pointer="/after")
        query = query.where(key > page.after if page.order == "asc" else key < page.after)
    query = query.order_by(key.asc() if page.order == "asc" else key.desc())
    rows = session.scalars(query.limit(page.limit + 1)).all()
    return rows[: page.limit], len(rows) > page.limit
