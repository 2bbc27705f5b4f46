"""Which facts each update of a sequence teaches, replays and asks, chosen as the service does."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.lm.loading import Bundle
from app.services.jobs import EXAMINED, REPLAYED
from app.services.publishing import MOST_TRIES
from tasks.bench.subjects import Subject
from tasks.training.asking import quiet
from tasks.training.proof import Exam, answer_all


@dataclass
class Course:
    """Which facts are taught, replayed and asked in each update, as the service chooses them."""

    rng: random.Random
    again: bool  # are facts that aren't proven, or not any more, taught along with the next ones?
    known: list[Subject] = field(default_factory=list)
    waiting: list[Subject] = field(default_factory=list)
    asked: list[Subject] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    taught: int = 0

    def plan(self, new: Sequence[Subject]) -> tuple[list[Subject], list[Subject]]:
        """Return what the next update teaches and what it replays."""
        replayed = self.rng.sample(self.known, min(len(self.known), REPLAYED))
        examined = self.rng.sample(self.known, min(len(self.known), EXAMINED))
        taught = [*new, *self.waiting]
        self.asked = [*taught, *examined]
        self.tries.update(subject.id for subject in taught)
        self.taught += len(taught)
        return taught, replayed

    def note(self, bundle: Bundle) -> list[int]:
        """Ask what was taught and some of the rest; return which are proven."""
        marks = proven(bundle, self.asked)
        right = [subject for subject, mark in zip(self.asked, marks, strict=True) if mark]
        asked = {subject.id for subject in self.asked}
        kept = right if self.again else self.asked
        self.known = [*(s for s in self.known if s.id not in asked), *kept]
        for subject in right:
            del self.tries[subject.id]
        wrong = [subject for subject, mark in zip(self.asked, marks, strict=True) if not mark]
        if self.again:
            self.waiting = [s for s in wrong if self.tries[s.id] < MOST_TRIES]
        return marks


def proven(bundle: Bundle, subjects: Sequence[Subject]) -> list[int]:
    """Ask every probe; return for each fact whether all were answered rightly."""
    asked = [[Exam(probe) for probe in subject.probes] for subject in subjects]
    answers = iter(answer_all(bundle, [exam for exams in asked for exam in exams], quiet))
    marked = [[exam.mark(next(answers)).passed for exam in exams] for exams in asked]
    return [int(all(marks)) for marks in marked]
