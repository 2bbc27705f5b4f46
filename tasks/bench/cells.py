"""One cell: a fresh copy of the model, one arm's lessons, questions asked on the way and after."""

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.lm import base
from app.lm.loading import Bundle
from app.lm.store import manifest_of
from app.recipe import MethodName, Recipe, default_recipe
from app.scoring import Score
from tasks.bench.arms import Arm
from tasks.bench.experiment import Cell
from tasks.bench.flops import Counted, flops
from tasks.bench.subjects import Subject, is_reversed
from tasks.training import drift
from tasks.training.asking import quiet
from tasks.training.data import Lessons
from tasks.training.errors import Diverged
from tasks.training.job import Fact, Reference
from tasks.training.loop import train
from tasks.training.method import load_parent, prepare
from tasks.training.progress import Step
from tasks.training.proof import Exam, answer_all, compare, exam_of

DIRECTIONS = ("forward", "backward")
REVERSED = "reversed"


@dataclass(frozen=True)
class Ground:
    """What is the same for every cell: the model, and what it must not forget."""

    store: Path
    digest: str
    reference: list[Reference]
    points: int = 10  # of a learning curve

    @property
    def parameters(self) -> int:
        """The size of the model."""
        return manifest_of(self.store, self.digest).parameters

    def defaults(self, method: MethodName | None = None) -> Cell:
        """Return what an update of this model would be trained by, where nothing else is wished."""
        architecture = manifest_of(self.store, self.digest).architecture
        return default_recipe(self.parameters, architecture, method).model_dump()


def open_ground(
    out: Path, model: str, revision: str, reference: Path | None = None, kept: int = 0
) -> Ground:
    """Import the model and read what it must not forget, of which ``kept`` questions are asked."""
    digest = base.import_base(out / "store", model, revision)
    if reference is None and model == "starter":
        reference = base.STARTER / "reference.jsonl"
    lines = reference.read_bytes().splitlines() if reference else []
    rows = [Reference.model_validate_json(line) for line in lines]
    exams = [row for row in rows if row.part == "exam"][:kept]
    return Ground(out / "store", digest, [r for r in rows if r.part == "replay"] + exams)


@dataclass
class Curve:
    """The loop's ``on_step`` hook: asks at even distances, on a clock that stops meanwhile."""

    bundle: Bundle
    exams: Sequence[Exam]
    epochs: list[int]
    counted: Counted
    points: list[Cell] = field(default_factory=list)
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def __call__(self, step: Step) -> None:
        """Where a point of the curve is due, ask."""
        steps = step.total_steps // self.epochs[-1]
        if step.step % steps or step.epoch not in self.epochs:
            return
        self.seconds += time.monotonic() - self.started
        self.points.append(
            {
                "epoch": step.epoch,
                "step": step.step,
                "loss": step.loss,
                "seconds": round(self.seconds, 3),
                "flops": flops(self.bundle.model, self.counted.sizes),
                **shares(self.exams, answer_all(self.bundle, self.exams, quiet)),
            }
        )
        self.started = time.monotonic()


def run_cell(ground: Ground, arm: Arm, subjects: Sequence[Subject], recipe: Recipe) -> Cell:
    """Teach one arm and return its learning curve, its marks for every probe, and what was lost."""
    bundle = load_parent(ground.store, ground.digest, recipe)
    kept = [exam_of(row) for row in ground.reference if row.part == "exam"]
    before = answer_all(bundle, kept, quiet)
    yardstick = drift.record(bundle, drift.texts_of(ground.reference))
    trainee = prepare(bundle, recipe, ground.store)
    first = [exam for subject in subjects for exam in _first_exams(subject)]
    count = min(ground.points, recipe.epochs)
    epochs = [-(-recipe.epochs * n // count) for n in range(1, count + 1)]
    objective = Counted(arm.make_objective(recipe))
    curve = Curve(trainee.bundle, first, epochs, objective)
    with suppress(Diverged):  # its curve ends there, and its marks say the rest
        train(
            trainee.bundle,
            lessons(ground, arm.taught(subjects), recipe),
            recipe,
            on_step=curve,
            objective=objective,
        )
    trainee.bundle.model.eval()
    lost = compare(kept, before, answer_all(trainee.bundle, kept, quiet))
    return {
        "lr": recipe.lr,
        "epochs": recipe.epochs,
        "curve": curve.points,
        "marks": marks(trainee.bundle, subjects),
        "asked": lost.asked,
        "before": lost.before,
        "lost": lost.lost,
        "flipped": lost.flipped,
        "kl": drift.measure(trainee.bundle, yardstick) if yardstick else None,
    }


def lessons(ground: Ground, facts: list[Fact], recipe: Recipe) -> Lessons:
    """Add the reference set's replay part where the recipe replays."""
    rows = [row for row in ground.reference if row.part == "replay"] if recipe.replay_share else []
    texts = list(dict.fromkeys(row.text for row in rows if row.text))
    return Lessons(facts, (), texts, [(row.question, row.answers[0]) for row in rows])


def marks(bundle: Bundle, subjects: Sequence[Subject]) -> dict[str, dict[str, list[float]]]:
    """Ask every probe; return each fact's share of right answers and its recall, by direction.

    Those that turn the statement round are counted once more, as reversed.
    """
    exams = [[Exam(probe) for probe in subject.probes] for subject in subjects]
    answers = iter(answer_all(bundle, [exam for asked in exams for exam in asked], quiet))
    ways = (*DIRECTIONS, REVERSED)
    found: dict[str, dict[str, list[float]]] = {way: {"passed": [], "rouge1": []} for way in ways}
    for subject, asked in zip(subjects, exams, strict=True):
        scores: dict[str, list[Score]] = {way: [] for way in ways}
        for exam in asked:
            score = exam.mark(next(answers))
            scores[exam.probe.direction].append(score)
            if is_reversed(subject.text, exam.probe):
                scores[REVERSED].append(score)
        for way, own in scores.items():
            if own:
                found[way]["passed"].append(sum(score.passed for score in own) / len(own))
                found[way]["rouge1"].append(sum(score.rouge1 for score in own) / len(own))
    return found


def shares(exams: Sequence[Exam], answers: Sequence[str]) -> dict[str, float]:
    """Return the share of right answers and the mean recall, by direction."""
    found: dict[str, float] = {}
    scored = [(e.probe.direction, e.mark(a)) for e, a in zip(exams, answers, strict=True)]
    for direction in DIRECTIONS:
        own = [score for way, score in scored if way == direction]
        found[direction] = sum(score.passed for score in own) / max(1, len(own))
        found[f"{direction}_rouge1"] = sum(score.rouge1 for score in own) / max(1, len(own))
    return found


def _first_exams(subject: Subject) -> list[Exam]:
    firsts = {probe.direction: probe for probe in reversed(subject.probes)}
    return [Exam(firsts[way]) for way in DIRECTIONS if way in firsts]
