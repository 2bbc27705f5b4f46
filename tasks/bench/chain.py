"""One arm of the sequence experiment: updates one on the other, and what is left meanwhile."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Literal

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.bench.cells import Ground
from tasks.bench.course import Course, proven
from tasks.bench.experiment import Cell
from tasks.bench.subjects import Subject
from tasks.training import drift
from tasks.training.asking import quiet
from tasks.training.data import Lessons
from tasks.training.job import Fact, Reference
from tasks.training.loop import train
from tasks.training.method import load_parent, prepare, stored_type
from tasks.training.proof import answer_all, compare, exam_of
from tasks.training.studying import study

Arm = Literal[
    "all defences",
    "not again",
    "no replay",
    "no reference",
    "no base",
    "no KL",
    "no protection",
    "none",
    "fresh adapters",
    "retrained",
]
POINTS = 10  # of a curve


class Curve:
    """What is left of what was learned, and of what the base model knew, as updates go on."""

    def __init__(
        self, base: Bundle, rows: Sequence[Reference], subjects: Sequence[Subject]
    ) -> None:
        self._subjects = subjects
        rehearsed = {row.text for row in rows if row.part == "replay"} - {None}
        exams = [row for row in rows if row.part == "exam"]
        exams.sort(key=lambda row: row.text in rehearsed)
        self._unlisted = sum(row.text not in rehearsed for row in exams)  # these come first
        self._kept = [exam_of(row) for row in exams]
        self._before = answer_all(base, self._kept, quiet)
        self._yardstick = drift.record(base, drift.texts_of(rows))
        self.first: list[int] = []  # of each fact so far, was it proven in its own update?
        self._last: list[int] = []
        self._lost = compare(self._kept, self._before, self._before)
        self._points: list[dict[str, float]] = []
        self._seconds, self._lessons = 0.0, 0

    @contextmanager
    def timed(self, lessons: int) -> Iterator[None]:
        """Note how long it takes to give so many lessons."""
        began = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began
        self._lessons += lessons

    def look(self, bundle: Bundle, updates: int) -> None:
        """Ask all that was taught so far, and the reference questions; add a point."""
        self._last = proven(bundle, self._subjects[: len(self.first)])
        told = answer_all(bundle, self._kept, quiet)
        self._lost = compare(self._kept, self._before, told)
        few = slice(self._unlisted)
        unlisted = compare(self._kept[few], self._before[few], told[few])
        still = sum(map(int.__and__, self.first, self._last))
        point = {
            "updates": updates,
            "proven": sum(self._last) / len(self._last),
            "still": still / max(1, sum(self.first)),
            "lost": self._lost.lost / max(1, self._lost.before),
            "unlisted": unlisted.lost / max(1, unlisted.before),
            "seconds": self._seconds / self._lessons,
        }
        if self._yardstick is not None:
            point["kl"] = drift.measure(bundle, self._yardstick)
        self._points.append(point)
        self._seconds, self._lessons = 0.0, 0

    def cell(self, taught: int) -> Cell:
        """Return the arm's results, ``taught`` lessons in all; the last point was at the end."""
        found = {"first": self.first, "last": self._last, "points": self._points}
        kl = self._points[-1].get("kl")
        return {**found, "taught": taught, **asdict(self._lost), "kl": kl}


@dataclass(frozen=True)
class Chain:
    """One arm's updates with one seed."""

    ground: Ground
    arm: str
    recipe: Recipe
    size: int

    def run(self, subjects: Sequence[Subject]) -> Cell:
        """Learn all facts, so many an update; return what was proven when, and what was lost."""
        base, bundle = (
            load_parent(self.ground.store, self.ground.digest, self.recipe) for _ in range(2)
        )
        curve = Curve(base, self.ground.reference, subjects)
        exams = {probe.question for subject in subjects for probe in subject.probes}
        trainee = prepare(bundle, self.recipe, self.ground.store)
        bundle, stored = trainee.bundle, stored_type(trainee.base_folder)
        again = self.arm not in ("not again", "none")
        course = Course(random.Random(self.recipe.seed), again)
        starts = range(0, len(subjects), self.size)
        shown = {starts[len(starts) * point // POINTS - 1] for point in range(1, POINTS + 1)}
        known: dict[str, Fact] = {}
        for start in starts:
            new = subjects[start : start + self.size]
            taught, replayed = course.plan(new)
            older = [known[subject.id] for subject in replayed]
            lessons = self._lessons(taught, older)
            with curve.timed(len(taught)):
                facts = study(bundle, lessons.facts, exams, self.recipe)
                known |= {fact.id: fact for fact in facts}
                held = None if self.arm == "no base" else base
                recipe = self._recipe(lessons, start)
                lessons = replace(lessons, facts=facts)
                train(bundle, lessons, recipe, on_step=lambda _: None, base=held)
            if trainee.kind == "full":  # as if saved, and opened by the next one
                bundle.model.to(stored).float()
            if self.arm == "fresh adapters":  # merged, all lie side by side as if joined by rank
                merged = replace(bundle, model=bundle.model.merge_and_unload())
                bundle = prepare(merged, self.recipe, self.ground.store).bundle
            curve.first += course.note(bundle)[: len(new)]
            if start in shown:
                curve.look(bundle, start // self.size + 1)
        return curve.cell(course.taught)

    def _lessons(self, taught: Sequence[Subject], older: Sequence[Fact]) -> Lessons:
        facts = [Fact(id=subject.id, text=subject.text) for subject in taught]
        replayed = [] if self.arm in ("no replay", "none") else older
        if self.arm in ("no reference", "none"):
            return Lessons(facts, replayed)
        rows = [row for row in self.ground.reference if row.part == "replay"]
        texts = list(dict.fromkeys(row.text for row in rows if row.text))
        return Lessons(facts, replayed, texts, [(r.question, r.answers[0]) for r in rows])

    def _recipe(self, lessons: Lessons, start: int) -> Recipe:
        anything = bool(lessons.older or lessons.statements or lessons.answered)
        share = self.recipe.replay_share if anything else 0.0
        return self.recipe.model_copy(
            update={"replay_share": share, "seed": self.recipe.seed + start}
        )
