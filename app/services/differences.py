"""What two versions answer differently: both are asked the probes of what either has learned.

Proofs compare a version with its parent, on the day it was made, about its own facts alone; any
other two can only be compared by asking. Clozes hold masks and can't be asked as a user asks.
"""

import asyncio
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from app.engine_pool import EnginePool
from app.errors import Invalid
from app.models import Checkpoint, Fact, Probe
from app.prompts import ask
from app.services import activations, checkpoints, lapses
from app.services.pages import Page, fetch_page

ASKED_TOGETHER = 8  # questions under way at once: others want answers, too
MAX_TOKENS = 128
MARKS = ".,;:!?…\"'“”‘’()"


@dataclass(frozen=True)
class Comparison:
    """Two versions that can answer, and a page of what they are asked."""

    version: int
    against: int
    digests: tuple[str, str]
    probes: Sequence[Probe]
    unasked: int  # facts of the page that have no question
    last: str | None  # the last fact of the page
    has_more: bool


@dataclass(frozen=True)
class Difference:
    """A probe with the two answers, the first version's first."""

    probe: Probe
    answers: tuple[str, str]


def collect(session: Session, version: int, against: int | None, page: Page) -> Comparison:
    """Choose the probes of a page of facts that either version's lineage has proven.

    `against` is the parent where it is None. Raises as `checkpoints.resolve`, and `Invalid` where
    there is no parent.
    """
    first = checkpoints.resolve(session, version)
    if against is None and first.parent is None:
        raise Invalid("Version 0 has no parent: say which to compare with.", pointer="/against")
    second = checkpoints.resolve(session, first.parent if against is None else against)
    trees = [activations.ancestry(Checkpoint.version == row.version) for row in (first, second)]
    either = session.scalars(select(trees[0].c.version).union(select(trees[1].c.version))).all()
    where = [Fact.id.in_(lapses.proven_by(either)), Fact.prompt.is_(None)]
    facts, has_more = fetch_page(session, Fact, page, where, [selectinload(Fact.probes)])
    questions = [[probe for probe in fact.probes if probe.origin != "cloze"] for fact in facts]
    probes = [probe for own in questions for probe in own]
    unasked = questions.count([])
    last = facts[-1].id if facts else None
    digests = first.digest, second.digest
    return Comparison(first.version, second.version, digests, probes, unasked, last, has_more)


async def find(engine: EnginePool, compared: Comparison) -> list[Difference]:
    """Ask both versions, from their weights alone; return what they answer in other words."""

    async def answer(digest: str, probe: Probe) -> str:
        asked = ask(probe.question)
        try:
            completion = await engine.complete(digest, asked, MAX_TOKENS)
        except Invalid:  # a long question leaves less room: what there is
            completion = await engine.complete(digest, asked, None)
        return completion.text.strip()

    found = []
    for start in range(0, len(compared.probes), ASKED_TOGETHER):
        asked = compared.probes[start : start + ASKED_TOGETHER]
        first, second = [
            await asyncio.gather(*(answer(digest, probe) for probe in asked))
            for digest in compared.digests
        ]
        for probe, one, other in zip(asked, first, second, strict=True):
            if _words(one) != _words(other):
                found.append(Difference(probe, (one, other)))
    return found


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [bare for word in plain.split() if (bare := word.strip(MARKS))]
