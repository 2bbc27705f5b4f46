"""Full-text search over facts: FTS5 on SQLite, tsvector on Postgres."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    Select,
    column,
    func,
    literal,
    literal_column,
    select,
    table,
    union,
    union_all,
)
from sqlalchemy.orm import Session, selectinload

from app.db import Reader
from app.models import Fact
from app.services.relevance import MIN_STEM, WORD, plain_form, says_nothing, stem

MAX_TERMS = 32
MOST_PROPOSED = 200
MOST_SORTED = 1000
MOST_RECENT = 500
_fts = table("facts_fts", column("fact_id"), column("rowid"))
_FTS5 = ('"{}"', "*", " AND ", " OR ")


class Term(NamedTuple):
    """A word of letters and digits to look for, or the beginning of one."""

    text: str
    begins: bool = False


def search(session: Session, words: str, limit: int) -> Sequence[Fact]:
    """Find facts that share words with ``words``, best match first, probes loaded.

    Each word proposes its newest facts, and all words together theirs: a rare word gives all that
    it has, and of a common one nobody wants to see everything, which would take seconds to rank.
    """
    given = list(dict.fromkeys(_split(words)))
    terms = [term for term in given if not says_nothing(term)][:MAX_TERMS] or given[:MAX_TERMS]
    if not terms:
        return []
    groups = [[Term(term)] for term in terms]
    groups += [[Term(term) for term in terms]] if len(terms) > 1 else []
    propose = _propose_postgres if is_postgres(session) else _propose_sqlite
    branches = (propose(*numbered, limit) for numbered in enumerate(groups))
    rows = session.execute(union_all(*branches)).all()
    frequency = Counter(number for number, _ in rows)
    weights = {term: 1 / (1 + frequency[number]) for number, term in enumerate(terms)}
    rarest = sorted(rows, key=lambda row: frequency[row[0]])
    proposed = list(dict.fromkeys(fact_id for _, fact_id in rarest))[:MOST_PROPOSED]
    query = select(Fact).where(Fact.id.in_(proposed)).options(selectinload(Fact.probes))

    def rank(fact: Fact) -> tuple[float, str]:
        shared = weights.keys() & set(_split(fact.text))
        return sum(weights[term] for term in sorted(shared)), fact.id

    return sorted(session.scalars(query), key=rank, reverse=True)[:limit]


def _split(text: str) -> list[str]:
    return WORD.findall(plain_form(text))


def find_forms(words: Iterable[str]) -> list[Term]:
    """Return terms that find these words and other forms of them, as `relevance.has_form` does."""
    return [Term(stem(word), begins=len(word) >= MIN_STEM) for word in words]


def _propose_sqlite(number: int, group: Sequence[Term], most: int) -> Select[int, str]:
    """Build the query for the newest facts that have every word of a group, by its number."""
    query = literal(write_query(False, group))
    found = select(literal(number), _fts.c.fact_id).where(_matches(query))
    return select(found.order_by(_fts.c.rowid.desc()).limit(most).subquery())


def _propose_postgres(number: int, group: Sequence[Term], most: int) -> Select[int, str]:
    """Build the same query for Postgres, whose index has no order and gives all that it has.

    So words that are in enough of the newest facts aren't looked up there, and of what is found of
    others no more than MOST_SORTED are sorted.
    """
    query = literal(write_query(True, group))
    recent = select(_RECENT.c.id).where(has_words(_RECENT.c.words, query))
    enough = select(func.count()).select_from(recent.subquery()).scalar_subquery() >= most
    some = select(Fact.id).where(matching(query, True), ~enough).limit(MOST_SORTED)
    found = union(recent, select(some.subquery())).subquery()
    return select(
        select(literal(number), found.c.id).order_by(found.c.id.desc()).limit(most).subquery()
    )


def is_postgres(reader: Reader) -> bool:
    """Say which of the two full-text indexes this database has."""
    bound = reader.get_bind() if isinstance(reader, Session) else reader
    return bound.dialect.name == "postgresql"


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


def _matches(query: BindParameter[str]) -> ColumnElement[bool]:
    return literal_column("facts_fts").bool_op("MATCH")(query)


def matching(
    query: BindParameter[str], postgres: bool, newest: int | None = None
) -> ColumnElement[bool]:
    """Build the condition that a fact fits a written query; on SQLite among the `newest` hits."""
    if postgres:
        return has_words(fact_words(), query)
    found = select(_fts.c.fact_id).where(_matches(query))
    if newest:
        found = found.order_by(_fts.c.rowid.desc()).limit(inline(newest))
    return Fact.id.in_(found)


def inline(number: int) -> ColumnElement[int]:
    """Write a constant into the SQL: a parameter is bound anew each time the query runs."""
    return literal_column(str(number), Integer())


def fact_words() -> ColumnElement[object]:
    """Build what Postgres' index has of a fact."""
    return func.fact_words(Fact.text)


def has_words(words: ColumnElement[object], query: BindParameter[str]) -> ColumnElement[bool]:
    """Build the condition that words of Postgres fit a written query."""
    return words.bool_op("@@")(func.to_tsquery(literal_column("'simple'"), query))


# Read at every search, 7 µs a fact: what is common is common here, too, at any size of the ledger.
_RECENT = (
    select(Fact.id, fact_words().label("words"))
    .order_by(Fact.id.desc())
    .limit(MOST_RECENT)
    .cte("recent")
)
