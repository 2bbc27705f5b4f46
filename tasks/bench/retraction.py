"""The retraction experiment: what a rebuild without some facts still answers about them.

Some facts are never taught at all: what is answered rightly about those is guessed. Retracted facts
should be answered no better after the rebuild, and the others as well as before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from app.cli.console import Stop, errors
from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.bench.arms import Arm
from tasks.bench.cells import DIRECTIONS, Ground, lessons, marks, open_ground
from tasks.bench.course import proven
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
from tasks.training.job import Fact
from tasks.training.loop import train
from tasks.training.method import load_parent, prepare
from tasks.training.studying import study

INVENTED_SEED = 70_000
HEAD = """# Retraction experiment

Model `{model}`; {taught} facts taught, {retracted} of them retracted and the model rebuilt from its
start without them, {control} never taught; {seeds} seeds; recipe `{recipe}`. Share of right answers
with 95 % intervals over seeds and facts. Of {before} other facts that were proven before,
{still:.1%} still were after the rebuild, and {again:.1%} after one more update, which teaches again
what wasn't.

"""


@dataclass(frozen=True)
class Plan:
    """How many facts of which kind, and with how much effort."""

    model: str = "starter"
    revision: str = ""
    facts: Path | None = None
    reference: Path | None = None
    taught: int = 40
    retracted: int = 10
    control: int = 20
    seeds: int = 3
    recipe: dict[str, Any] = field(default_factory=dict)
    threads: int = 2


QUICK = {"taught": 2, "retracted": 1, "control": 1, "seeds": 1, "recipe": {"epochs": 1}}


def plan_of(given: dict[str, Any]) -> Plan:
    """Check what was asked for; Stop names what can't be."""
    plan = parse(Plan, given)
    parse(Recipe, plan.recipe)
    if plan.retracted >= plan.taught:
        raise Stop("retracted: has to be less than what is taught.")
    return plan


def run(plan: Plan, out: Path) -> list[Path]:
    """Do what of the experiment isn't done yet, and write its report; return the files."""
    torch.set_num_threads(plan.threads)
    out.mkdir(parents=True, exist_ok=True)
    subjects = open_subjects(plan.facts, out, plan.taught + plan.control, INVENTED_SEED)
    ground = open_ground(out, plan.model, plan.revision, plan.reference)
    defaults = ground.defaults(plan.recipe.get("method"))
    settings = describe(plan, ground.digest, defaults=defaults)
    ledger = Ledger(out / "retraction.jsonl", settings)
    cells = []
    with Progress(console=errors, disable=not errors.is_terminal) as bar:
        for seed in bar.track(range(plan.seeds), description="seeds"):
            recipe = Recipe(**{**defaults, **plan.recipe, "seed": seed})
            work = partial(run_cell, ground, subjects, plan.taught, plan.retracted, recipe)
            cells.append(ledger.get_or_run(f"seed {seed}", work))
    return write_report(out, settings, cells)


def run_cell(
    ground: Ground, subjects: Sequence[Subject], taught: int, retracted: int, recipe: Recipe
) -> Cell:
    """Learn, rebuild without the first facts, and ask about them, the others and the control.

    As the service does, what the rebuild didn't prove is taught again, and all is asked once more.
    """
    gone, others, control = subjects[:retracted], subjects[retracted:taught], subjects[taught:]
    first, _ = _learn(ground, subjects[:taught], recipe)
    found = {"before": marks(first, gone), "proven_before": proven(first, others)}
    del first
    rebuilt, facts = _learn(ground, others, recipe)
    answered = proven(rebuilt, others)
    found |= {"after": marks(rebuilt, gone), "control": marks(rebuilt, control)}
    found["proven_after"] = answered
    older = [fact for fact, right in zip(facts, answered, strict=True) if right]
    failed = [subject for subject, right in zip(others, answered, strict=True) if not right]
    if failed:
        rebuilt, _ = _learn(ground, failed, recipe, rebuilt, older)
        answered = proven(rebuilt, others)
    return {**found, "again": marks(rebuilt, gone), "proven_again": answered}


def write_report(out: Path, settings: Cell, cells: Sequence[Cell]) -> list[Path]:
    """Write the table as Markdown and CSV."""
    before = sum(sum(cell["proven_before"]) for cell in cells)
    kept, kept_again = (
        sum(sum(map(int.__and__, cell["proven_before"], cell[key])) for cell in cells)
        for key in ("proven_after", "proven_again")
    )
    rows, flat = [], []
    names = {
        "before": "retracted, before",
        "after": "retracted, after the rebuild",
        "again": "retracted, after one more update",
        "control": "never taught, after the rebuild",
    }
    for key, name in names.items():
        row = {"facts": name}
        for way in DIRECTIONS:
            answered = [cell[key][way]["passed"] for cell in cells]
            found = interval(answered) if answered[0] else None
            row[way] = shown(found)
            values = dict(zip(("mean", "low", "high"), found or ("", "", ""), strict=True))
            flat.append({"facts": key, "direction": way, **values})
        rows.append(row)
    shares = {"still": kept / max(1, before), "again": kept_again / max(1, before)}
    counts = {"before": before, **shares}
    text = HEAD.format(**{**settings, "model": settings["model"][:12]}, **counts) + markdown(rows)
    files = [out / "retraction.md", out / "retraction.csv"]
    files[0].write_text(text, encoding="utf-8")
    write_csv(files[1], flat)
    return files


def _learn(
    ground: Ground,
    subjects: Sequence[Subject],
    recipe: Recipe,
    parent: Bundle | None = None,
    older: Sequence[Fact] = (),
) -> tuple[Bundle, list[Fact]]:
    """Teach facts to a copy of the base model, or to a parent that knows older ones.

    Returns the model, and the facts with what they were studied by.
    """
    base = load_parent(ground.store, ground.digest, recipe)
    bundle = parent or prepare(base, recipe, ground.store).bundle
    taught = lessons(ground, Arm("masked").taught(subjects), recipe)
    if not (taught.statements or taught.answered or older):
        recipe = recipe.model_copy(update={"replay_share": 0.0})
    exams = {probe.question for subject in subjects for probe in subject.probes}
    facts = study(bundle, taught.facts, exams, recipe)
    taught = replace(taught, facts=facts, older=older)
    train(bundle, taught, recipe, on_step=lambda _: None, base=base if parent else None)
    return bundle, facts
