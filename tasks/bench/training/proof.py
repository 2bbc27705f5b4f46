"""Parts 2 and 3: steps, and facts per second, to the same share of probes answered rightly."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from statistics import median

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.bench.cells import Ground as Kept
from tasks.bench.cells import lessons as lessons_of
from tasks.bench.experiment import Cell
from tasks.bench.figures import Figure
from tasks.bench.subjects import Subject
from tasks.bench.training.arms import (
    OURS,
    PLAIN,
    Hook,
    Lap,
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
from tasks.training.asking import quiet
from tasks.training.errors import Diverged
from tasks.training.method import prepare
from tasks.training.proof import Exam, answer_all, exam_of

GetOrRun = Callable[[str, Callable[[], Cell]], Cell]
Way = Paper | Recipe
# An update as it is by default; and without its defences against forgetting, of which the plain
# loop has none.
RECIPES = {
    OURS: Recipe(),
    f"{OURS} without defences": Recipe(
        trained="all", protection=0.0, lr=8e-4, replay_share=0.0, kl_weight=0.0
    ),
}


class Reached(Exception):
    """Ends a run whose level is reached."""


@dataclass
class Watch:
    """The hook that asks at even distances and stops at the level."""

    bundle: Bundle
    exams: Sequence[Exam]
    every: int  # steps
    level: float
    points: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0

    def __call__(self) -> None:
        """Count a step; where a point of the curve is due, ask."""
        self.steps += 1
        if self.steps % self.every:
            return
        right = share(self.bundle, self.exams)
        self.points.append({"step": self.steps, "share": right})
        if right >= self.level:
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
        """Draw all curves, time the arms in turn; say which needs fewer steps and less time."""
        tried = {paper: self._curve(paper.name, paper, 0) for paper in self.plan.grid}
        found: list[Figure] = []
        for name, recipe in RECIPES.items():
            seeds = range(self.plan.seeds)
            ours = [self._curve(name, recipe, seed) for seed in seeds]
            level = min(self.level, best(ours[0]), max(map(best, tried.values())))
            paper = min(tried, key=lambda p: (steps_to(tried[p], level), -best(tried[p])))
            plain = [self._curve(paper.name, paper, seed) for seed in seeds]
            key = f"rate {len(self.subjects)} {name}"
            times = self.get_or_run(key, partial(self._time, recipe, paper))
            found += figures(self, name, paper, ours, plain, times["laps"])
        return found

    def _open(self, way: Way, seed: int) -> tuple[Bundle, Run]:
        """Return a fresh model, and how an arm trains it for so many epochs."""
        bundle, texts = self.ground.open_starter(), [subject.text for subject in self.subjects]
        if isinstance(way, Paper):
            return bundle, lambda epochs, hook: train_plainly(
                bundle, texts, replace(way, epochs=epochs, seed=seed), hook
            )
        recipe = way.model_copy(update={"seed": seed})
        lessons = lessons_of(self.kept, as_facts(texts), recipe)
        trainee = prepare(bundle, recipe, self.ground.store).bundle

        def run(epochs: int, hook: Hook) -> None:
            run_trainer(trainee, lessons, recipe.model_copy(update={"epochs": epochs}), hook)

        return trainee, run

    def _curve(self, name: str, way: Way, seed: int) -> Cell:
        """Train one arm; return its curve, and how much the model still knows at its end."""
        epochs = way.epochs if isinstance(way, Paper) else self.plan.epochs

        def work() -> Cell:
            bundle, run = self._open(way, seed)
            pieces = -(-len(self.subjects) // Recipe().batch_size)
            watch = Watch(bundle, self._exams(), pieces * self.plan.every, self.level)
            with suppress(Reached, Diverged):
                run(epochs, watch)
            older = [exam_of(row) for row in self.kept.reference if row.part == "exam"]
            return {"points": watch.points, "kept": share(bundle, older)}

        return self.get_or_run(f"proof {len(self.subjects)} {name} {seed}", work)

    def _time(self, recipe: Recipe, paper: Paper) -> Cell:
        arms = {OURS: self._open(recipe, 0)[1], PLAIN: self._open(paper, 0)[1]}
        return {"laps": time_in_turn(arms, self.plan.rounds, self.plan.steps)}

    def _exams(self) -> list[Exam]:
        """Return one question a direction and fact."""
        firsts = [{p.direction: p for p in reversed(s.probes)} for s in self.subjects]
        return [Exam(probe) for found in firsts for probe in found.values()]


def share(bundle: Bundle, exams: Sequence[Exam]) -> float:
    """Return the share of questions that are answered rightly."""
    answers = answer_all(bundle, exams, quiet)
    return sum(e.mark(a).passed for e, a in zip(exams, answers, strict=True)) / len(exams)


def best(cell: Cell) -> float:
    """Return the highest share of a curve; 0 where it diverged before its first point."""
    return max((point["share"] for point in cell["points"]), default=0.0)


def steps_to(cell: Cell, level: float) -> float:
    """Return the steps after which a share was first seen; infinite where it never was."""
    return min((point["step"] for point in cell["points"] if point["share"] >= level), default=inf)


def figures(
    race: Race,
    name: str,
    paper: Paper,
    ours: Sequence[Cell],
    plain: Sequence[Cell],
    laps: dict[str, list[Lap]],
) -> list[Figure]:
    """Compare at the level that both reach, seed by seed; medians over seeds."""
    count = len(race.subjects)
    title = f"{count} facts, {name} / plain loop"
    reached = f"{median(map(best, ours)):.0%} / {median(map(best, plain)):.0%}"
    kept = " / ".join(f"{median(cell['kept'] for cell in side):.0%}" for side in (ours, plain))
    tried = f"seeds: {len(ours)}; the plain loop's best of {len(race.plan.grid)}: {paper.name}"
    found = [
        Figure(f"highest share of probes: {title} ({tried})", reached, f"{race.level:.0%}"),
        Figure(f"reference questions still answered at the end: {title}", kept, "reported"),
    ]
    levels = [min(race.level, best(o), best(p)) for o, p in zip(ours, plain, strict=True)]
    if not all(levels):
        return [*found, Figure(f"steps to the same proof: {title}", "nothing both answer")]
    steps = [
        (steps_to(o, level), steps_to(p, level))
        for o, p, level in zip(ours, plain, levels, strict=True)
    ]
    fewer = median(theirs / own for own, theirs in steps)
    own, theirs = (median(side) for side in zip(*steps, strict=True))
    faster, less_cpu = (fewer * times for times in ratio(laps[PLAIN], laps[OURS]))
    rates = [count / (n * middle(laps[arm])[0]) for n, arm in ((own, OURS), (theirs, PLAIN))]
    value = f"{fewer:.2f}x ({theirs:.0f} -> {own:.0f})"
    value_rate = (
        f"{faster:.2f}x ({rates[1]:.2f} -> {rates[0]:.2f} facts/s; by CPU time {less_cpu:.2f}x)"
    )
    whole = min(levels) >= race.level  # less than the whole proof meets no goal
    at = f"{median(levels):.0%}"
    return [
        *found,
        Figure(f"fewer steps to {at}: {title}", value, ">= 2x", whole and fewer >= 2),
        Figure(f"facts per second to it: {title}", value_rate, ">= 5x", whole and faster >= 5),
    ]
