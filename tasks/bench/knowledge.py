"""The knowledge experiment: objectives, paraphrases and methods compared on facts never seen.

Every arm's learning rate and epochs are chosen on one part of the facts, by what it answers there,
and its figures come from the other part, several seeds each. Nothing is chosen on what is reported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import Progress

from app.cli.console import Stop, errors
from app.lm.base import import_base
from app.lm.store import manifest_of
from app.recipe import SMALL_MODEL_PARAMETERS, MethodName, ObjectiveName, Recipe
from tasks.bench.arms import Arm, Paraphrases, all_arms, budget, settings_of
from tasks.bench.cells import Ground, open_ground, run_cell
from tasks.bench.experiment import Cell, Ledger, describe, parse
from tasks.bench.knowledge_report import write_report
from tasks.bench.subjects import Subject, invent, read_subjects, split

# What each method is tried with: all weights of a small and of a large model, and adapters.
RATES: dict[MethodName, tuple[list[float], list[float]]] = {
    "full": ([2e-4, 5e-4, 1e-3], [3e-6, 1e-5, 3e-5]),
    "lora": ([1e-3, 3e-3, 6e-3], [1e-4, 2e-4, 5e-4]),
}
# The update alone is looked at: nothing defends what was known, and no decay hides a later best.
ALONE = {"replay_share": 0.0, "kl_weight": 0.0, "decay_share": 0.0, "protection": 0.0}
INVENTED_SEED = 50_000


@dataclass(frozen=True)
class Plan:
    """What is compared, and with how much effort."""

    model: str = "starter"
    revision: str = ""
    sibling: str = ""  # the masked-diffusion model that the objective `diffusion` teaches
    facts: Path | None = None
    invented: int = 60
    reference: Path | None = None
    objectives: tuple[ObjectiveName | Literal["tokens", "noise", "hidden"], ...] = (
        "masked", "tokens", "causal",
    )  # fmt: skip
    paraphrases: tuple[Paraphrases, ...] = ("none", "same", "permuted")
    methods: tuple[MethodName, ...] = ("full", "lora")
    seeds: int = 3
    exposures: int = 100
    rates: dict[MethodName, list[float]] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    threads: int = 2
    kept: int = 100  # reference questions that are asked


QUICK = {
    "invented": 6,
    "objectives": ("masked", "causal"),
    "paraphrases": ("none", "permuted"),
    "methods": ("full",),
    "seeds": 2,
    "exposures": 4,
    "rates": {"full": [1e-3]},
    "kept": 10,
}


def plan_of(given: dict[str, Any]) -> Plan:
    """Check what was asked for; Stop names what can't be."""
    plan = parse(Plan, given)
    parse(Recipe, {**ALONE, **plan.recipe})
    if not plan.methods:
        raise Stop("methods: name one, or two with a comma.")
    if "diffusion" in plan.objectives and not plan.sibling:
        raise Stop("sibling: name the masked-diffusion model that `diffusion` teaches.")
    return plan


def run(plan: Plan, out: Path) -> list[Path]:
    """Do what of the experiment isn't done yet, and write its report; return the files."""
    torch.set_num_threads(plan.threads)
    out.mkdir(parents=True, exist_ok=True)
    subjects = _subjects(plan, out)
    ground = open_ground(out, plan.model, plan.revision, plan.reference, plan.kept)
    sibling = _open_sibling(plan, ground) if "diffusion" in plan.objectives else ground
    defaults = {method: ground.defaults(method) for method in plan.methods}
    others = {"facts": _digest(subjects), "sibling": sibling.digest, "defaults": defaults}
    settings = describe(plan, ground.digest, **others)
    ledger = Ledger(out / "knowledge.jsonl", settings)
    arms = [arm for arm in all_arms(plan.objectives, plan.paraphrases, plan.methods)
            if _has_texts(arm, subjects)]  # fmt: skip
    rates = {n: r[ground.parameters >= SMALL_MODEL_PARAMETERS] for n, r in RATES.items()}
    rates |= plan.rates
    tuned, reported = split(subjects)
    results: dict[str, list[Cell]] = {}
    total = sum(len(rates[arm.method]) + plan.seeds for arm in arms)
    with Progress(console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("cells", total=total)

        def cell(
            key: str, arm: Arm, facts: list[Subject], lr: float, epochs: int, seed: int
        ) -> Cell:
            bar.update(task, description=key)
            fields = {**defaults[arm.method], **ALONE, **plan.recipe}
            recipe = settings_of(arm, fields, lr, epochs, seed)
            taught = sibling if arm.objective == "diffusion" else ground
            done = ledger.get_or_run(key, lambda: run_cell(taught, arm, facts, recipe))
            bar.advance(task)
            return done

        for arm in arms:
            epochs = budget(arm, tuned, plan.exposures)
            tries = [
                cell(f"tune {arm.name} {lr:g}", arm, tuned, lr, epochs, 0)
                for lr in rates[arm.method]
            ]
            lr, epochs = choose(tries)
            results[arm.name] = [
                cell(f"report {arm.name} {seed}", arm, reported, lr, epochs, seed)
                for seed in range(plan.seeds)
            ]
    return write_report(out, settings, results, len(tuned), len(reported))


def choose(tries: Sequence[Cell]) -> tuple[float, int]:
    """Return learning rate and epochs of the best point of all curves: both directions' mean.

    Of equals the one with the better recall, then the earlier one. Only epochs at the end of a
    curve's stretch can be chosen.
    """
    points = [(point, cell["lr"]) for cell in tries for point in cell["curve"]]
    if not points:
        raise Stop("Every learning rate diverged before it was first looked at: try lower ones.")

    def worth(found: tuple[Cell, float]) -> tuple[float, float, int]:
        point, _ = found
        right = point["forward"] + point["backward"]
        recall = point["forward_rouge1"] + point["backward_rouge1"]
        return right, recall, -int(point["epoch"])

    best, lr = max(points, key=worth)
    return float(lr), int(best["epoch"])


def _open_sibling(plan: Plan, ground: Ground) -> Ground:
    """Import the masked-diffusion model; the same reference questions are asked of it."""
    sibling = replace(ground, digest=import_base(ground.store, plan.sibling))
    if manifest_of(ground.store, sibling.digest).architecture != "diffusion":
        raise Stop(f"sibling: {plan.sibling} is no masked-diffusion model.")
    return sibling


def _subjects(plan: Plan, out: Path) -> list[Subject]:
    path = plan.facts or out / "facts.jsonl"
    if plan.facts is None and not path.exists():
        invent(path, plan.invented, INVENTED_SEED)
    subjects = read_subjects(path)
    if len(subjects) < 3:
        raise Stop(f"{path} holds {len(subjects)} facts; 3 are the least that can be parted.")
    return subjects


def _has_texts(arm: Arm, subjects: Sequence[Subject]) -> bool:
    needs: dict[str, Callable[[Subject], Sequence[str]]] = {
        "same": lambda subject: subject.same,
        "permuted": lambda subject: subject.permuted,
    }
    return arm.paraphrases == "none" or any(needs[arm.paraphrases](s) for s in subjects)


def _digest(subjects: Sequence[Subject]) -> str:
    return sha256(repr(subjects).encode()).hexdigest()[:12]
