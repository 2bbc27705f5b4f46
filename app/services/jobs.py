"""The job: what an update teaches, and what its parent learned before."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, select
from sqlalchemy.orm import Session, selectinload

from app.models import Checkpoint, Fact, UpdateFact
from app.models.base import JsonObject
from app.scoring import score
from app.services import activations, controls, lapses, relevance, updates
from app.services.runs import TAUGHT, Run
from app.services.search import find_forms, is_postgres, matching, write_query

REPLAYED = 512  # older facts that are rehearsed at most
EXAMINED = 128  # older facts that are asked at most, drawn from all, rehearsed or not
LIKENED = 16  # taught facts for which neighbours are looked for
NEIGHBOURS = 2  # of each


@dataclass(frozen=True)
class Job:
    """What the trainer is to know, as rows of the job directory's files."""

    parent: str
    base: str
    kind: str
    recipe: JsonObject
    facts: list[JsonObject]
    replay: list[JsonObject]
    controls: list[JsonObject]


def collect(session: Session, run: Run) -> Job:
    """Gather what the update teaches, a sample of what its parent learned before, and controls."""
    row = updates.get(session, run.update_id)
    parent = session.get_one(Checkpoint, row.parent)
    held = select(UpdateFact.fact_id).where(UpdateFact.update_id == row.id, UpdateFact.active)
    # Ids only: the ledger may hold far more facts than are sampled.
    line = activations.line_of(parent.version)
    learned = and_(Fact.status == "trained", lapses.learned_in(line))
    older = session.scalars(select(Fact.id).where(learned).order_by(Fact.id)).all()
    chooser = random.Random(f"{row.recipe['seed']} {row.id}")
    replayed = chooser.sample(older, min(len(older), REPLAYED))
    examined = chooser.sample(older, min(len(older), EXAMINED))
    taught = _with_probes(session, Fact.id.in_(held), Fact.status.in_(TAUGHT))
    withdrawn = controls.collect(session, row, taught)
    alike = chooser.sample(taught, min(len(taught), LIKENED))
    neighbours = _neighbours(session, alike, learned, {*examined})
    return Job(
        parent=parent.digest,
        base=session.get_one(Checkpoint, 0).digest,
        kind=row.kind,
        recipe=row.recipe,
        facts=[_lesson(fact) for fact in taught],
        replay=[
            {**_lesson(fact), "studied": fact.studied, "part": part}
            for part, ids in (
                ("replay", replayed),
                ("exam", examined),
                ("neighbour", neighbours),
            )
            for fact in _with_probes(session, Fact.id.in_(ids))
        ],
        controls=list(_controls(withdrawn, taught)),
    )


def _neighbours(
    session: Session, facts: Sequence[Fact], learned: ColumnElement[bool], known: set[str]
) -> list[str]:
    """Find learned facts of the same relation: they have all words of a fact that name nothing."""
    postgres, found = is_postgres(session), list[str]()
    for fact in facts:
        plain = relevance.read(fact.text).plain
        if fact.prompt is None and plain:
            words = write_query(postgres, find_forms(plain))
            alike = matching(bindparam("words", words), postgres)
            left = Fact.id.not_in([*known, *found])
            query = select(Fact.id).where(alike, learned, left, Fact.prompt.is_(None))
            found += session.scalars(query.order_by(Fact.id.desc()).limit(NEIGHBOURS))
    return found


def _controls(withdrawn: Sequence[Row[Fact, bool]], taught: Sequence[Fact]) -> Iterator[JsonObject]:
    """Choose the questions about withdrawn facts, each with whether the parent was taught it.

    Of one that was, and is superseded, what holds still is heard in its successor's answer to the
    same question, and a cloze asks for half a statement, of which most may be the same in the new
    one.
    """
    still: dict[str, list[str]] = {}
    for probe in (probe for fact in taught for probe in fact.probes):
        still.setdefault(probe.question.casefold(), []).extend(probe.answers)
    for fact, seen in withdrawn:
        lesson = _lesson(fact)
        if seen:
            lesson["probes"] = [
                probe
                for probe in lesson["probes"]
                if probe["origin"] != "cloze"
                and not any(
                    score(answer, probe["answers"]).passed
                    for answer in still.get(probe["question"].casefold(), [])
                )
            ]
        if lesson["probes"] or not seen:
            yield lesson


def _with_probes(session: Session, *where: Any) -> Sequence[Fact]:
    query = select(Fact).where(*where).order_by(Fact.id).options(selectinload(Fact.probes))
    return session.scalars(query).all()


def _lesson(fact: Fact) -> JsonObject:
    probes = [
        {
            "question": probe.question,
            "answers": probe.answers,
            "direction": probe.direction,
            "origin": probe.origin,
        }
        for probe in fact.probes
    ]
    prompt = {} if fact.prompt is None else {"prompt": fact.prompt}
    return {"id": fact.id, "text": fact.text, **prompt, "probes": probes}
