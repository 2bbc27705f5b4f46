"""Attribution: the learned facts whose statements support an answer from the weights."""

from functools import cache

from sqlalchemy import Integer, Select, String, bindparam, select
from sqlalchemy.orm import Session

from app.models import Checkpoint, Fact, UpdateFact
from app.services import relevance
from app.services.activations import ancestry
from app.services.answers import Support
from app.services.relevance import Text
from app.services.search import find_forms, is_postgres, matching, write_query

MAX_FACTS = 3
MAX_CANDIDATES = 50
# More words than these don't narrow the search any further.
MAX_SAID = 6
MAX_ASKED = 10


def find(session: Session, question: str, answer: str, version: int) -> tuple[Support, ...]:
    """Return at most MAX_FACTS facts proven in the version's lineage that say what it answered.

    Such a fact is about the question and has every word that the answer adds to it. An answer that
    adds none, a plain yes, is supported by nothing.
    """
    if version == 0:  # the base model: nothing was learned
        return ()
    asked = relevance.read(question)
    known = {word.text for word in asked.words}
    said = [word for word in _telling(relevance.read(answer)) if word not in known]
    about = _telling(asked)
    if not said or not about:
        return ()
    postgres = is_postgres(session)
    words = write_query(postgres, find_forms(said[:MAX_SAID]), find_forms(about[:MAX_ASKED]))
    candidates = session.execute(_query(postgres), {"words": words, "version": version})
    newest: dict[str, tuple[float, int, Fact]] = {}
    for fact, learned in candidates:
        score = _support(asked, said, relevance.read(fact.text))
        if score and newest.get(fact.id, (0.0, -1, fact))[1] < learned:
            newest[fact.id] = (score, learned, fact)
    best = sorted(newest.values(), key=lambda found: (found[0], found[2].id), reverse=True)
    return tuple(
        Support(fact.id, fact.text, "learned" if fact.status == "trained" else fact.status, learned)
        for _, learned, fact in best[:MAX_FACTS]
    )


@cache
def _query(postgres: bool) -> Select[Fact, int]:
    """Build the query for `words` and `version`; kept, for that takes longer than running it."""
    lineage = select(
        ancestry(Checkpoint.version == bindparam("version", type_=Integer())).c.version
    )
    return (
        select(Fact, Checkpoint.version)
        .join(UpdateFact, UpdateFact.fact_id == Fact.id)
        .join(Checkpoint, Checkpoint.update_id == UpdateFact.update_id)
        .where(
            matching(bindparam("words", type_=String()), postgres),
            Fact.prompt.is_(None),
            Fact.status.in_(("trained", "superseded")),
            UpdateFact.proven.is_(True),
            Checkpoint.version.in_(lineage),
        )
        .limit(MAX_CANDIDATES)
    )


def _telling(text: Text) -> list[str]:
    """List the words that say something, names first, each once."""
    names = [word for name in text.names for word in name]
    return list(dict.fromkeys([*names, *text.plain]))


def _support(asked: Text, said: list[str], statement: Text) -> float:
    """Return how much of the question the statement covers; 0 if it lacks a word of the answer."""
    if not all(relevance.has_form(word, statement) for word in said):
        return 0.0
    return relevance.score(asked, statement)
