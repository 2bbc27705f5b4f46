"""The sequence experiment: updates one on the other, with every defence and with each left out.

What was proven in its own update is asked again after the last one, and questions that have nothing
to do with any update are compared with what the base model answered.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import Progress

from app.cli.console import Stop, errors
from app.recipe import Recipe
from app.services.jobs import REPLAYED
from tasks.bench.cells import Ground, open_ground
from tasks.bench.course import Course, proven
from tasks.bench.experiment import (
    Cell,
    Ledger,
    describe,
    interval,
    markdown,
    parse,
    shown,
    write_csv,
)
from tasks.bench.subjects import Subject, open_subjects
from tasks.training import drift
from tasks.training.asking import quiet
from tasks.training.data import Lessons
from tasks.training.job import Fact
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
    "none",
    "fresh adapters",
    "retrained",
]
# By default those of the defences; the last two ask what becomes of an adapter.
ARMS: tuple[Arm, ...] = (
    "all defences", "not again", "no replay", "no reference", "no base", "no KL", "none",
)  # fmt: skip
INVENTED_SEED = 60_000
HEAD = """# Sequence experiment

Model `{model}`; {updates} updates of {size} facts, one on the other, {seeds} seeds; recipe
`{recipe}`. Again: what isn't proven, or was and isn't any more as far as it is asked, is taught
along with the next update. Replay: up to {replayed} older facts are rehearsed. Reference: so is the
reference set's replay part. KL: to the update's parent on older facts, on the rest to the base
model, without base to the parent. Fresh adapters: each update trains a new one on what the earlier
ones, merged, left. Retrained: the base model learns all facts in one update. Proven: every probe is
answered rightly. No gate holds a version. Means with 95 % intervals over seeds and facts; reference
questions and KL against the base model.

"""


@dataclass(frozen=True)
class Plan:
    """How long the sequence is, and with how much effort."""

    model: str = "starter"
    revision: str = ""
    facts: Path | None = None
    reference: Path | None = None
    updates: int = 20
    size: int = 20
    arms: tuple[Arm, ...] = ARMS
    seeds: int = 3
    recipe: dict[str, Any] = field(default_factory=dict)
    threads: int = 2
    kept: int = 100


QUICK = {"updates": 2, "size": 2, "seeds": 1, "recipe": {"epochs": 1}, "kept": 5}


def plan_of(given: dict[str, Any]) -> Plan:
    """Check what was asked for; Stop names what can't be."""
    plan = parse(Plan, given)
    recipe = parse(Recipe, plan.recipe)
    if "fresh adapters" in plan.arms and recipe.method != "lora":
        raise Stop("arms: fresh adapters need a recipe of the method `lora`.")
    return plan


def run(plan: Plan, out: Path) -> list[Path]:
    """Do what of the experiment isn't done yet, and write its report; return the files."""
    torch.set_num_threads(plan.threads)
    out.mkdir(parents=True, exist_ok=True)
    subjects = open_subjects(plan.facts, out, plan.updates * plan.size, INVENTED_SEED)
    ground = open_ground(out, plan.model, plan.revision, plan.reference, plan.kept)
    defaults = ground.defaults(plan.recipe.get("method"))
    settings = describe(plan, ground.digest, defaults=defaults)
    ledger = Ledger(out / "sequence.jsonl", settings)
    results: dict[str, list[Cell]] = {arm: [] for arm in plan.arms}
    with Progress(console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("cells", total=len(plan.arms) * plan.seeds)
        for arm in plan.arms:
            for seed in range(plan.seeds):
                bar.update(task, description=f"{arm} {seed}")
                recipe = Recipe(**{**defaults, **plan.recipe, "seed": seed})
                size = len(subjects) if arm == "retrained" else plan.size
                chain = Chain(ground, arm, _of_arm(arm, recipe), size)
                work = partial(chain.run, subjects)
                results[arm].append(ledger.get_or_run(f"{arm} {seed}", work))
                bar.advance(task)
    return write_report(out, settings, results)


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
        kept = [exam_of(row) for row in self.ground.reference if row.part == "exam"]
        exams = {probe.question for subject in subjects for probe in subject.probes}
        before = answer_all(base, kept, quiet)
        yardstick = drift.record(base, drift.texts_of(self.ground.reference))
        trainee = prepare(bundle, self.recipe, self.ground.store)
        bundle, stored = trainee.bundle, stored_type(trainee.base_folder)
        first: list[int] = []
        again = self.arm not in ("not again", "none")
        course = Course(random.Random(self.recipe.seed), again)
        for start in range(0, len(subjects), self.size):
            new = subjects[start : start + self.size]
            taught, replayed = course.plan(new)
            texts = [subject.text for subject in taught]
            studied = study(bundle, texts, exams, self.recipe)
            lessons = replace(self._lessons(taught, replayed), studied=studied)
            recipe = self._recipe(lessons, start)
            held = None if self.arm == "no base" else base
            train(bundle, lessons, recipe, on_step=lambda _: None, base=held)
            if trainee.kind == "full":  # as if saved, and opened by the next one
                bundle.model.to(stored).float()
            if self.arm == "fresh adapters":  # merged, all lie side by side as if joined by rank
                merged = replace(bundle, model=bundle.model.merge_and_unload())
                bundle = prepare(merged, self.recipe, self.ground.store).bundle
            first += course.note(bundle)[: len(new)]
        lost = compare(kept, before, answer_all(bundle, kept, quiet))
        return {
            "first": first,
            "last": proven(bundle, subjects),
            "taught": course.taught,
            **asdict(lost),
            "kl": drift.measure(bundle, yardstick) if yardstick else None,
        }

    def _lessons(self, taught: Sequence[Subject], older: Sequence[Subject]) -> Lessons:
        facts = [Fact(id=subject.id, text=subject.text) for subject in taught]
        replayed = [Fact(id=subject.id, text=subject.text) for subject in older]
        replayed = [] if self.arm in ("no replay", "none") else replayed
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


def write_report(out: Path, settings: Cell, results: dict[str, list[Cell]]) -> list[Path]:
    """Write the table as Markdown and CSV."""
    rows, flat = [], []
    for arm, cells in results.items():
        first = interval([cell["first"] for cell in cells])
        last = interval([cell["last"] for cell in cells])
        still = sum(sum(map(int.__and__, cell["first"], cell["last"])) for cell in cells)
        once = sum(sum(cell["first"]) for cell in cells)
        row: Cell = {"arm": arm, "proven": first[0], "proven_last": last[0]}
        row["still"] = still / once if once else 0.0
        row["lessons"] = sum(c["taught"] for c in cells) / sum(len(c["first"]) for c in cells)
        row["lost"] = sum(c["lost"] for c in cells) / max(1, sum(c["before"] for c in cells))
        row["flipped"] = sum(c["flipped"] for c in cells) / max(1, sum(c["asked"] for c in cells))
        distances = [cell["kl"] for cell in cells if cell["kl"] is not None]
        row["kl"] = sum(distances) / len(distances) if distances else 0.0
        flat.append(row)
        rows.append(
            {
                "arm": arm,
                "proven in its own update": shown(first),
                "proven in the end": shown(last),
                "lessons a fact": f"{row['lessons']:.2f}",
                "of those proven, still": f"{row['still']:.1%} of {once}",
                "reference lost": f"{row['lost']:.1%}",
                "answered otherwise": f"{row['flipped']:.1%}",
                "KL": f"{row['kl']:.3f}",
            }
        )
    head = {**settings, "model": settings["model"][:12], "replayed": REPLAYED}
    text = HEAD.format(**head) + markdown(rows)
    files = [out / "sequence.md", out / "sequence.csv"]
    files[0].write_text(text, encoding="utf-8")
    write_csv(files[1], flat)
    return files


def _of_arm(arm: str, recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"kl_weight": 0.0}) if arm in ("no KL", "none") else recipe
