"""Parts 2 and 3: steps, and facts per second, to the same share of probes answered rightly."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from math import inf
from statistics import median

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.bench.cells import Ground as Kept
from tasks.bench.cells import lessons as lessons_of
from tasks.bench.cells import quiet
from tasks.bench.experiment import Cell
from tasks.bench.figures import Figure
from tasks.bench.subjects import Subject
from tasks.bench.training.arms import (
    OURS,
    PLAIN,
    Hook,
    Run,
    as_facts,
    middle,
    ratio,
    run_trainer,
    time_in_turn,
)
from tasks.bench.training.plain import Paper, train_plainly
from tasks.bench.training.plan import Plan
from tasks.bench.training.subjects import Ground
from tasks.training.errors import Diverged
from tasks.training.method import prepare
from tasks.training.proof import Exam, answer_all

GetOrRun = Callable[[str, Callable[[], Cell]], Cell]
Curve = list[dict[str, float]]


class Reached(Exception):
    """Ends a run whose level is reached."""


@dataclass
class Watch:
    """The hook that asks at even distances and stops at the level."""

    bundle: Bundle
    exams: Sequence[Exam]
    every: int  # steps
    level: float
    points: Curve = field(default_factory=list)
    steps: int = 0

    def __call__(self) -> None:
        """Count a step; where a point of the curve is due, ask."""
        self.steps += 1
        if self.steps % self.every:
            return
        answers = answer_all(self.bundle, self.exams, quiet)
        right = sum(e.mark(a).passed for e, a in zip(self.exams, answers, strict=True))
        share = right / len(self.exams)
        self.points.append({"step": self.steps, "share": share})
        if share >= self.level:
            raise Reached


@dataclass(frozen=True)
class Race:
    """Both arms over the same facts, to the same level; keys name the facts' number."""

    ground: Ground
    kept: Kept  # what the trainer replays
    plan: Plan
    level: float
    subjects: Sequence[Subject]
    get_or_run: GetOrRun

    def run(self) -> list[Figure]:
        """Draw all curves, time both arms in turn; say which needs fewer steps and less time."""
        ours = [self._curve(None, seed) for seed in range(self.plan.seeds)]
        tried = {paper: self._curve(paper, 0) for paper in self.plan.grid}
        level = min(self.level, best(ours[0]), max(map(best, tried.values())))
        paper = min(tried, key=lambda paper: (steps_to(tried[paper], level), -best(tried[paper])))
        plain = [self._curve(paper, seed) for seed in range(self.plan.seeds)]
        laps = self.get_or_run(f"rate {len(self.subjects)}", lambda: self._time(paper))
        return figures(self, paper, ours, plain, laps)

    def _open(self, paper: Paper | None, seed: int) -> tuple[Bundle, Run]:
        """Return a fresh model, and how an arm trains it for so many epochs: ours without paper."""
        bundle, texts = self.ground.open_starter(), [subject.text for subject in self.subjects]
        if paper is not None:
            return bundle, lambda epochs, hook: train_plainly(
                bundle, texts, replace(paper, epochs=epochs, seed=seed), hook
            )
        recipe = Recipe(seed=seed)
        lessons = lessons_of(self.kept, as_facts(texts), recipe)
        trainee = prepare(bundle, recipe, self.ground.store).bundle

        def run(epochs: int, hook: Hook) -> None:
            run_trainer(trainee, lessons, recipe.model_copy(update={"epochs": epochs}), hook)

        return trainee, run

    def _curve(self, paper: Paper | None, seed: int) -> Curve:
        """Train one arm and return its curve."""
        epochs = paper.epochs if paper else self.plan.epochs

        def work() -> Cell:
            bundle, run = self._open(paper, seed)
            pieces = -(-len(self.subjects) // Recipe().batch_size)
            watch = Watch(
                bundle, self._exams(), pieces * max(1, epochs // self.plan.points), self.level
            )
            with suppress(Reached, Diverged):
                run(epochs, watch)
            return {"points": watch.points}

        name = paper.name if paper else OURS
        return self.get_or_run(f"proof {len(self.subjects)} {name} {seed}", work)["points"]

    def _time(self, paper: Paper) -> Cell:
        arms = {OURS: self._open(None, 0)[1], PLAIN: self._open(paper, 0)[1]}
        return {"laps": time_in_turn(arms, self.plan.rounds, self.plan.steps)}

    def _exams(self) -> list[Exam]:
        """Return one question a direction and fact."""
        firsts = [{p.direction: p for p in reversed(s.probes)} for s in self.subjects]
        return [Exam(probe) for found in firsts for probe in found.values()]


def best(curve: Curve) -> float:
    """Return the highest share of a curve; 0 where it diverged before its first point."""
    return max((point["share"] for point in curve), default=0.0)


def steps_to(curve: Curve, level: float) -> float:
    """Return the steps after which a share was first seen; infinite where it never was."""
    return min((p["step"] for p in curve if p["share"] >= level), default=inf)


def figures(
    race: Race, paper: Paper, ours: Sequence[Curve], plain: Sequence[Curve], cell: Cell
) -> list[Figure]:
    """Compare at the level that both reach, seed by seed; medians over seeds."""
    count, laps = len(race.subjects), cell["laps"]
    reached = median(map(best, ours)), median(map(best, plain))
    title = f"{count} facts, seeds: {len(ours)}, best of {len(race.plan.grid)}: {paper.name}"
    found = [
        Figure(
            f"highest share of probes, trainer / plain loop ({title})",
            f"{reached[0]:.0%} / {reached[1]:.0%}",
            f"{race.level:.0%} asked for",
        )
    ]
    levels = [min(race.level, best(o), best(p)) for o, p in zip(ours, plain, strict=True)]
    if not all(levels):
        return [*found, Figure(f"steps to the same proof, {count} facts", "nothing both answer")]
    steps = [
        (steps_to(o, level), steps_to(p, level))
        for o, p, level in zip(ours, plain, levels, strict=True)
    ]
    fewer = median(theirs / own for own, theirs in steps)
    own, theirs = (median(side) for side in zip(*steps, strict=True))
    faster, less_cpu = (fewer * times for times in ratio(laps[PLAIN], laps[OURS]))
    rates = [
        count / (number * middle(laps[arm])[0]) for number, arm in ((own, OURS), (theirs, PLAIN))
    ]
    value = f"{fewer:.2f}x fewer ({theirs:.0f} -> {own:.0f})"
    value_rate = (
        f"{faster:.2f}x ({rates[1]:.2f} -> {rates[0]:.2f} facts/s; by CPU time {less_cpu:.2f}x)"
    )
    return [
        *found,
        Figure(f"steps to {median(levels):.0%}, {count} facts", value, ">= 2x", fewer >= 2),
        Figure(f"facts per second to it, {count} facts", value_rate, ">= 5x", faster >= 5),
    ]
