"""Attribution: the learned facts whose statements support an answer from the weights."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from sqlalchemy import Integer, Select, String, bindparam, select

from app.db import Reader
from app.models import Checkpoint, Fact, UpdateFact
from app.services import relevance
from app.services.activations import ancestry
from app.services.answers import Support
from app.services.relevance import Text
from app.services.search import Term, find_forms, is_postgres, matching, write_query

MAX_FACTS = 3
MAX_CANDIDATES = 50
# More words than these don't narrow the search any further.
MAX_SAID = 6
MAX_ASKED = 10


class Learned(NamedTuple):
    """A fact that a version proved."""

    id: str
    text: str
    status: str  # as stored
    version: int


def find(reader: Reader, question: str, answer: str, version: int) -> tuple[Support, ...]:
    """Return what `choose` does of the facts proven in the version's lineage."""
    asked, said = relevance.read(question), _added(question, answer)
    about = _telling(asked)
    if version == 0 or not said or not about:
        return ()
    every, either = find_forms(said[:MAX_SAID]), find_forms(about[:MAX_ASKED])
    return choose(question, answer, _fetch(reader, every, either, version))


def propose(reader: Reader, question: str, version: int) -> list[Learned] | None:
    """Return all facts that could support an answer, before there is one; None: not known.

    They share a name with the question, unless it has so many other words that these suffice.
    """
    asked = relevance.read(question)
    if version == 0:  # the base model has learned nothing
        return []
    if not asked.names or relevance.may_do_without_names(asked):
        return None
    words = [word for name in asked.names for word in relevance.indispensable(name)]
    if len(words) > MAX_ASKED:
        return None
    found = _fetch(reader, (), [Term(word) for word in words], version)
    return found if len(found) < MAX_CANDIDATES else None


def choose(question: str, answer: str, candidates: Sequence[Learned]) -> tuple[Support, ...]:
    """Return at most MAX_FACTS of the facts, those that say what was answered, best first.

    Such a fact is about the question and has every word that the answer adds to it. An answer that
    adds none, a plain yes, is supported by nothing.
    """
    asked, said = relevance.read(question), _added(question, answer)
    newest: dict[str, tuple[float, Learned]] = {}
    for fact in candidates if said else ():
        score = _support(asked, said, relevance.read(fact.text))
        if score and (fact.id not in newest or newest[fact.id][1].version < fact.version):
            newest[fact.id] = (score, fact)
    best = sorted(newest.values(), key=lambda found: (found[0], found[1].id), reverse=True)
    return tuple(
        Support(fact.id, fact.text, _status(fact.status), fact.version)
        for _, fact in best[:MAX_FACTS]
    )


def _status(stored: str) -> str:
    return "learned" if stored == "trained" else stored


def _fetch(
    reader: Reader, every: Sequence[Term], either: Sequence[Term], version: int
) -> list[Learned]:
    postgres = is_postgres(reader)
    given = {"words": write_query(postgres, every, either), "version": version}
    return [Learned(*row) for row in reader.execute(_query(postgres), given)]


@cache
def _query(postgres: bool) -> Select[str, str, str, int]:
    """Build the query for `words` and `version`; kept, for that takes longer than running it."""
    lineage = select(
        ancestry(Checkpoint.version == bindparam("version", type_=Integer())).c.version
    )
    return (
        select(Fact.id, Fact.text, Fact.status, Checkpoint.version)
        .join(UpdateFact, UpdateFact.fact_id == Fact.id)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(
            matching(bindparam("words", type_=String()), postgres),
            Fact.prompt.is_(None),
            Fact.status.in_(("trained", "lapsed", "superseded")),
            UpdateFact.proven.is_(True),
            Checkpoint.version.in_(lineage),
        )
        .limit(MAX_CANDIDATES)
    )


def _added(question: str, answer: str) -> list[str]:
    """List what an answer says beyond the words of its question."""
    known = {word.text for word in relevance.read(question).words}
    return [word for word in _telling(relevance.read(answer)) if word not in known]


def _telling(text: Text) -> list[str]:
    """List the words that say something, names first, each once."""
    names = [word for name in text.names for word in name]
    return list(dict.fromkeys([*names, *text.plain]))


def _support(asked: Text, said: list[str], statement: Text) -> float:
    """Return how much of the question the statement covers; 0 if it lacks a word of the answer."""
    if not all(relevance.has_form(word, statement) for word in said):
        return 0.0
    return relevance.score(asked, statement)
