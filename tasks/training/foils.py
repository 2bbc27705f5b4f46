"""Foils: questions that a model which merely links a fact's names answers as if it were asked.

They are asked and stored with a fact's proofs, and never decide whether it is proven: a foil is
passed where the answer holds nothing that would be right to the fact's own probe.
"""

import re

from app.prompts import negate
from tasks.training.job import Direction, Fact, Origin, Probe


def foils(fact: Fact) -> list[Probe]:
    """Return a negated probe and one in the wrong frame, where the fact's probes allow them."""
    if fact.prompt is not None:
        return []
    asked: dict[Direction, Probe] = {}
    for probe in fact.probes:
        if probe.origin != "cloze":
            asked.setdefault(probe.direction, probe)
    if not asked:
        return []
    first = asked.get("forward") or asked["backward"]
    made = [_foil(negate(first.question), first, "negated")]
    for direction, own in asked.items():
        other = asked.get(_other(direction))
        if other and (question := _misplace(own, other)):
            return [*made, _foil(question, other, "frame")]
    return made


def _misplace(own: Probe, other: Probe) -> str | None:
    """Ask a question about what answers it, in place of what it is about.

    "What does Mira keep?" becomes "What does the lighthouse keep?", to which Mira is no answer.
    """
    for subject in sorted(other.answers, key=len, reverse=True):
        place = re.compile(rf"(?<!\w){re.escape(subject)}(?!\w)", re.IGNORECASE)
        if place.search(own.question):
            return place.sub(lambda _: own.answers[0], own.question)
    return None


def _other(direction: Direction) -> Direction:
    return "backward" if direction == "forward" else "forward"


def _foil(question: str, like: Probe, origin: Origin) -> Probe:
    return Probe(question=question, answers=like.answers, direction=like.direction, origin=origin)
