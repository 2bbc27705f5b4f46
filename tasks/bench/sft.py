"""The SFT experiment: plain against demasking, on word problems that were never taught.

Demasking examples are longer: so plain SFT is run with as many steps, and once more with as many
FLOPs. Each arm's learning rate is chosen on problems that nothing is reported on.
"""

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from rich.progress import Progress

from app.cli.console import Stop, errors
from app.cli.imports import read_jsonl
from app.lm.loading import Bundle
from app.recipe import SMALL_MODEL_PARAMETERS, Recipe
from tasks.bench.cells import Ground, open_ground
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
from tasks.bench.flops import Counted, flops
from tasks.starter.samples import arithmetic
from tasks.training.asking import quiet
from tasks.training.data import Lessons
from tasks.training.errors import Diverged
from tasks.training.job import Fact, Probe
from tasks.training.loop import train
from tasks.training.method import load_parent, prepare
from tasks.training.objectives.base import Objective
from tasks.training.objectives.causal import Causal
from tasks.training.objectives.masked import Masked
from tasks.training.progress import Step
from tasks.training.proof import answer_all, exams_of

PLAIN, LONGER, DEMASKING, MIXED = "plain", "plain, equal FLOPs", "demasking", "mixed"
ARMS = (PLAIN, LONGER, DEMASKING, MIXED)
RATES = ([1e-4, 3e-4, 1e-3], [1e-4, 2e-4, 5e-4])  # of a small model, and of adapters
ALONE = {"replay_share": 0.0, "kl_weight": 0.0, "protection": 0.0}
HEAD = """# SFT experiment

Model `{model}`; {taught} problems with worked solutions, {asked} others asked greedily, {seeds}
seeds. `plain`: prompt to response. `demasking`: the prompt shows the masked response, too, which
the reply recovers (arXiv 2510.09885). `mixed`: in `infill_share` of those nothing of it is shown,
which is plain SFT. Right: the answer holds an accepted one. Means with 95 % intervals over seeds
and problems; the difference is to `plain` with as many steps, problem by problem. Before:
{before:.2f}.

"""


@dataclass(frozen=True)
class Plan:
    """What is compared, and with how much effort."""

    model: str = "starter"
    revision: str = ""
    examples: Path | None = None
    taught: int = 400
    asked: int = 200
    epochs: int = 10
    seeds: int = 3
    rates: list[float] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    threads: int = 2


QUICK = {"taught": 6, "asked": 4, "epochs": 1, "seeds": 2, "rates": [1e-3]}


def plan_of(given: dict[str, Any]) -> Plan:
    """Check what was asked for; Stop names what can't be."""
    plan = parse(Plan, given)
    parse(Recipe, {**ALONE, **plan.recipe})
    return plan


def run(plan: Plan, out: Path) -> list[Path]:
    """Do what of the experiment isn't done yet, and write its report; return the files."""
    torch.set_num_threads(plan.threads)
    out.mkdir(parents=True, exist_ok=True)
    ground = open_ground(out, plan.model, plan.revision)
    taught, tuned, asked = problems(plan)
    defaults = ground.defaults()
    settings = describe(plan, ground.digest, defaults=defaults)
    ledger = Ledger(out / "sft.jsonl", settings)
    rates = plan.rates or RATES[ground.parameters >= SMALL_MODEL_PARAMETERS]
    fields = {**defaults, **ALONE, **plan.recipe, "epochs": plan.epochs}
    results: dict[str, list[Cell]] = {}
    with Progress(console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("cells", total=len(ARMS) * (len(rates) + plan.seeds))

        def cell(key: str, arm: str, lr: float, seed: int, held_out: list[Fact]) -> Cell:
            bar.update(task, description=key)
            recipe = Recipe(**{**fields, "lr": lr, "seed": seed})
            done = ledger.get_or_run(key, lambda: run_cell(ground, arm, recipe, taught, held_out))
            bar.advance(task)
            return done

        for arm in ARMS:
            tries = [cell(f"tune {arm} {lr:g}", arm, lr, 0, tuned) for lr in rates]
            best = max(tries, key=lambda tried: sum(tried["marks"]))
            results[arm] = [
                cell(f"report {arm} {seed}", arm, best["lr"], seed, asked)
                for seed in range(plan.seeds)
            ]
    return write_report(out, settings, results)


def problems(plan: Plan) -> tuple[list[Fact], list[Fact], list[Fact]]:
    """Return what is taught, what arms are tuned on (half as much as is asked), what is asked."""
    tuned = max(1, plan.asked // 2)
    count = plan.taught + tuned + plan.asked
    made = _read(plan.examples) if plan.examples else _invent(count)
    if len(made) < count:
        raise Stop(f"{plan.examples} holds {len(made)} different prompts; {count} are needed.")
    chosen = random.Random(0).sample(made, count)
    return chosen[: plan.taught], chosen[plan.taught : -plan.asked], chosen[-plan.asked :]


def run_cell(
    ground: Ground, arm: str, recipe: Recipe, taught: list[Fact], held_out: list[Fact]
) -> Cell:
    """Teach one arm; return its marks on the problems held out, before and after."""
    bundle = load_parent(ground.store, ground.digest, recipe)
    exams = [exam for fact in held_out for exam in exams_of(fact)]
    before = [
        exam.mark(a).passed for exam, a in zip(exams, answer_all(bundle, exams, quiet), strict=True)
    ]
    trainee = prepare(bundle, recipe, ground.store)
    if arm == LONGER:
        costs = [_cost(kind, taught, trainee.bundle, recipe) for kind in (DEMASKING, PLAIN)]
        epochs = max(1, round(recipe.epochs * costs[0] / costs[1]))
        recipe = recipe.model_copy(update={"epochs": epochs})
    steps: list[Step] = []
    objective = Counted(objective_of(arm, recipe))
    with suppress(Diverged):  # its marks say the rest
        train(trainee.bundle, Lessons(taught), recipe, on_step=steps.append, objective=objective)
    answers = answer_all(trainee.bundle, exams, quiet)
    return {
        "lr": recipe.lr,
        "epochs": recipe.epochs,
        "steps": len(steps),
        "flops": flops(trainee.bundle.model, objective.sizes),
        "before": sum(before) / len(before),
        "marks": [int(exam.mark(a).passed) for exam, a in zip(exams, answers, strict=True)],
    }


def objective_of(arm: str, recipe: Recipe) -> Objective:
    """Make an arm's objective."""
    if arm in (PLAIN, LONGER):
        return Causal()
    infilled = recipe.infill_share if arm == MIXED else 0.0
    return Masked(recipe.t_min, recipe.t_max, 0.0, infilled)


def write_report(out: Path, settings: Cell, results: dict[str, list[Cell]]) -> list[Path]:
    """Write the table as Markdown and CSV."""
    plain = results[PLAIN]
    rows, flat = [], []
    for arm, cells in results.items():
        marks = [cell["marks"] for cell in cells]
        gains = [
            [new - old for new, old in zip(cell["marks"], other["marks"], strict=True)]
            for cell, other in zip(cells, plain, strict=True)
        ]
        right, gain, first = interval(marks), interval(gains), cells[0]
        cost = {name: first[name] for name in ("lr", "epochs", "steps", "flops")}
        rows.append(
            {
                "arm": arm,
                "rate": f"{first['lr']:g}",
                "steps": str(first["steps"]),
                "FLOPs": f"{first['flops']:.1e}",
                "right": shown(right),
                "difference to plain": "" if arm == PLAIN else shown(gain),
            }
        )
        flat.append({"arm": arm, **cost, **_named("right", right), **_named("gain", gain)})
    text = HEAD.format(**{**settings, "model": settings["model"][:12]}, before=plain[0]["before"])
    files = [out / "sft.md", out / "sft.csv"]
    files[0].write_text(text + markdown(rows), encoding="utf-8")
    write_csv(files[1], flat)
    return files


def _named(name: str, found: tuple[float, float, float]) -> Cell:
    return dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=True))


def _cost(arm: str, taught: Sequence[Fact], bundle: Bundle, recipe: Recipe) -> float:
    """Return the FLOPs of an epoch."""
    pairs = [(fact.prompt or "", fact.text) for fact in taught]
    counted = Counted(objective_of(arm, recipe))
    counted.responses(pairs, bundle, random.Random(0))
    return flops(bundle.model, counted.sizes)


def _invent(count: int) -> list[Fact]:
    rng, found = random.Random(1), dict[str, Fact]()
    while len(found) < count:
        prompt, solution = arithmetic(rng)
        answer = solution[solution.rindex("The answer is") :]
        found.setdefault(prompt, _example(len(found), prompt, solution, [answer]))
    return list(found.values())


def _read(path: Path) -> list[Fact]:
    """Read examples in the shape of ``POST /v1/examples/batch``, one of each prompt."""
    found: dict[str, Fact] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            prompt, response = str(row["prompt"]), str(row["response"])
            example = _example(number, prompt, response, row.get("answers") or [response])
        except (KeyError, ValidationError) as error:
            raise Stop(f"{path}, line {number}: not an example ({error}).") from None
        found.setdefault(prompt, example)
    return list(found.values())


def _example(number: int, prompt: str, response: str, answers: list[str]) -> Fact:
    probe = Probe(question=prompt, answers=answers, direction="forward")
    return Fact(id=str(number), prompt=prompt, text=response, probes=[probe])
