"""Full-text search over facts: FTS5 on SQLite, tsvector on Postgres."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    column,
    func,
    literal_column,
    select,
    table,
)
from sqlalchemy.orm import Session, selectinload

from app.models import Fact
from app.services.relevance import plain_form

MAX_TERMS = 32
_fts = table("facts_fts", column("fact_id"), column("rank"))
_FTS5 = ('"{}"', "*", " AND ", " OR ")


def search(
    session: Session, words: str, limit: int, where: Sequence[ColumnElement[bool]] = ()
) -> Sequence[Fact]:
    """Find facts that share words with ``words``, best match first, probes loaded."""
    terms = list(dict.fromkeys(re.findall(r"[^\W_]+", plain_form(words))))[:MAX_TERMS]
    if not terms:
        return []
    found = _find(session, select(Fact).where(*where), " OR ".join(f'"{term}"' for term in terms))
    return session.scalars(found.options(selectinload(Fact.probes)).limit(limit)).all()


def _find(session: Session, query: Select[Fact], terms: str) -> Select[Fact]:
    if is_postgres(session):
        vector = func.fact_words(Fact.text)
        wanted = func.websearch_to_tsquery(literal_column("'simple'"), terms)
        query = query.where(vector.bool_op("@@")(wanted))
        return query.order_by(func.ts_rank(vector, wanted).desc(), Fact.id.desc())
    query = query.join(_fts, _fts.c.fact_id == Fact.id)
    query = query.where(literal_column("facts_fts").bool_op("MATCH")(terms))
    return query.order_by(_fts.c.rank, Fact.id.desc())


class Term(NamedTuple):
    """A word of letters and digits to look for, or the beginning of one."""

    text: str
    begins: bool = False


def is_postgres(session: Session) -> bool:
    """Say which of the two full-text indexes this database has."""
    return session.get_bind().dialect.name == "postgresql"


def write_query(postgres: bool, every: Sequence[Term], either: Sequence[Term] = ()) -> str:
    """Write in the index's language: every one of these words, and one of those if given.

    They are of letters and digits only, so quoting is enough.
    """
    word, begins, both, one = ("'{}'", ":*", " & ", " | ") if postgres else _FTS5
    parts = [word.format(term.text) + begins * term.begins for term in every]
    if either:
        options = (word.format(term.text) + begins * term.begins for term in either)
        parts.append(f"({one.join(options)})")
    return both.join(parts)


def matching(query: BindParameter[str], postgres: bool) -> ColumnElement[bool]:
    """Build the condition that a fact fits a written query."""
    if postgres:
        wanted = func.to_tsquery(literal_column("'simple'"), query)
        return func.fact_words(Fact.text).bool_op("@@")(wanted)
    found = literal_column("facts_fts").bool_op("MATCH")(query)
    return Fact.id.in_(select(_fts.c.fact_id).where(found))
