"""The overlay: facts that no activated weights hold yet, found for a question.

The full-text index proposes, `relevance` decides; both see the same words on both databases, so
both give the same facts. Every question waits for these queries: they take columns alone, as a
session's care for objects takes longer than they run.
"""

from collections import Counter
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple

from sqlalchemy import (
    BindParameter,
    Select,
    SelectBase,
    String,
    and_,
    bindparam,
    select,
    union_all,
)

from app.db import Reader, utc_now
from app.models import IS_WAITING, Fact
from app.services import relevance
from app.services.relevance import Text
from app.services.search import (
    Term,
    fact_words,
    find_forms,
    has_words,
    inline,
    is_postgres,
    matching,
    write_query,
)
from app.services.standing import find_unserved, held_in

MAX_CANDIDATES = 50
# On SQLite, of a word in more facts than these only the newest are seen: most are learned.
MOST_TRIED = 500
MAX_WORDS = 10
PAIRED_WORDS = 4
MAX_GROUPS = MAX_WORDS + PAIRED_WORDS * (PAIRED_WORDS - 1) // 2
# Facts much worse than the best one only distract: they share its name, not what is asked.
MIN_SHARE_OF_BEST = 0.85


class Waiting(NamedTuple):
    """A fact that no activated weights hold yet."""

    id: str
    text: str
    status: str  # as stored


def find(reader: Reader, question: str, limit: int) -> list[Waiting]:
    """Return the waiting facts that help to answer, best first, newest first among equals.

    Waiting are pending, training, lapsed, failed and held ones, within their validity dates.
    """
    asked = relevance.read(question)
    proposed = _propose(reader, asked)
    scored = [(relevance.score(asked, relevance.read(fact.text)), fact) for fact in proposed]
    scored.sort(key=lambda pair: (pair[0], pair[1].id), reverse=True)
    best = max((score for score, _ in scored), default=0.0)
    kept = [fact for score, fact in scored if score and score >= MIN_SHARE_OF_BEST * best]
    return kept[:limit]


def _propose(reader: Reader, asked: Text) -> list[Waiting]:
    """Return at most MAX_CANDIDATES facts, those with the question's rarest words first.

    Each word, and each pair of the first few, gives its newest facts: a rare word gives all it has,
    and of common ones a pair finds what neither alone would.
    """
    names = [word for name in asked.names for word in name]
    plain = sorted(asked.plain, key=len, reverse=True)
    words = [Term(word) for word in names] + find_forms(plain)
    words = list(dict.fromkeys(words))[:MAX_WORDS]
    groups = [(word,) for word in words] + list(combinations(words[:PAIRED_WORDS], 2))
    if not groups:
        return []
    postgres, unserved = is_postgres(reader), find_unserved(reader)
    queries = {f"query{n}": write_query(postgres, group) for n, group in enumerate(groups)}
    given = {"now": utc_now(), "unserved": unserved} if unserved else {"now": utc_now()}
    query = _query(len(groups), postgres, bool(unserved))
    rows = reader.execute(query, queries | given).all()
    frequency = Counter(number for number, *_ in rows)
    weights: dict[Waiting, float] = {}
    for number, *columns in rows:
        fact = Waiting(*columns)
        weights[fact] = weights.get(fact, 0.0) + 1 / frequency[number]
    ranked = sorted(weights, key=lambda fact: (weights[fact], fact.id), reverse=True)
    return ranked[:MAX_CANDIDATES]


@lru_cache(4 * MAX_GROUPS)
def _query(groups: int, postgres: bool, held: bool) -> Select[int, str, str, str]:
    """Build the query for so many groups of words; kept, for building it takes longer than it runs.

    Its parameters are `query0`, `query1`, …, `now`, and `unserved` where there are such versions.
    """
    now = bindparam("now", type_=Fact.valid_from.type)
    usable = and_(
        Fact.prompt.is_(None),  # the answer to one question says nothing about another
        Fact.valid_from.is_(None) | (Fact.valid_from <= now),
        Fact.valid_until.is_(None) | (Fact.valid_until > now),
    )
    is_held = held_in(bindparam("unserved", expanding=True))
    # What waits has an index on Postgres; what is held is few, and is read once for all groups.
    kept = select(Fact.id, fact_words().label("words")).where(is_held, usable).cte("held")

    def match(query: BindParameter[str]) -> SelectBase:
        if not postgres:
            waiting = IS_WAITING | is_held if held else IS_WAITING
            return select(Fact.id).where(matching(query, False, MOST_TRIED), waiting, usable)
        found = select(Fact.id).where(matching(query, True), IS_WAITING, usable)
        more = select(kept.c.id).where(has_words(kept.c.words, query))
        return union_all(found, more) if held else found

    branches = []
    for number in range(groups):
        ids = match(bindparam(f"query{number}", type_=String())).subquery()
        newest = select(inline(number).label("number"), ids.c.id).order_by(ids.c.id.desc())
        branches.append(select(newest.limit(inline(MAX_CANDIDATES)).subquery()))
    found = union_all(*branches).subquery()
    return select(found.c.number, Fact.id, Fact.text, Fact.status).join(Fact, Fact.id == found.c.id)
