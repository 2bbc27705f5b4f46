"""The sequence experiment: updates one on the other, with every defence and with each left out.

What was proven in its own update is asked again after the last one, and questions that have nothing
to do with any update are compared with what the base model answered.
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.progress import Progress

from app.cli.console import Stop, errors
from app.recipe import Recipe
from app.services.jobs import REPLAYED
from tasks.bench.cells import open_ground
from tasks.bench.chain import Arm, Chain
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
from tasks.bench.subjects import open_subjects

# By default those of the defences; the last two ask what becomes of an adapter.
ARMS: tuple[Arm, ...] = (
    "all defences", "not again", "no replay", "no reference", "no base", "no KL", "no protection",
    "none",
)  # fmt: skip
INVENTED_SEED = 60_000
HEAD = """# Sequence experiment

Model `{model}`; {updates} updates of {size} facts, one on the other, {seeds} seeds; recipe
`{recipe}`. Again: what isn't proven, or was and isn't any more as far as it is asked, is taught
along with the next update. Replay: up to {replayed} older facts are rehearsed. Reference: so is the
reference set's replay part. KL: to the update's parent on older facts, on the rest to the base
model, without base to the parent. Protection: steps keep away from the inputs of replay. Fresh
adapters: each update trains a new one on what the earlier ones, merged, left. Retrained: the base
model learns all facts in one update. Proven: every probe is answered rightly. Still: of those
proven in their own update. Seconds: of training, by lesson given in the updates since the line
before. No gate holds a version. Means with 95 % intervals over seeds and facts; reference questions
and KL against the base model.

"""
CURVE = "\n## Update after update\n\n"


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
    kept: int = 200


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
                chain = Chain(ground, arm, recipe_of(arm, recipe), size)
                work = partial(chain.run, subjects)
                results[arm].append(ledger.get_or_run(f"{arm} {seed}", work))
                bar.advance(task)
    return write_report(out, settings, results)


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
    points = [_point(arm, cells, at) for arm, cells in results.items() for at in _places(cells)]
    text = HEAD.format(**head) + markdown(rows) + CURVE + markdown(points)
    files = [out / "sequence.md", out / "sequence.csv"]
    files[0].write_text(text, encoding="utf-8")
    write_csv(files[1], flat)
    return files


def _places(cells: list[Cell]) -> range:
    return range(len(cells[0]["points"]))


def _point(arm: str, cells: list[Cell], at: int) -> dict[str, str]:
    """Write one line of an arm's curve, the mean of its seeds."""
    points = [cell["points"][at] for cell in cells]
    found = {name: mean(point[name] for point in points) for name in points[0]}
    return {
        "arm": arm,
        "updates": f"{found['updates']:.0f}",
        "proven of all facts so far": f"{found['proven']:.2f}",
        "still": f"{found['still']:.1%}",
        "reference lost": f"{found['lost']:.1%}",
        "of what isn't rehearsed": f"{found['unlisted']:.1%}",
        "KL": f"{found['kl']:.3f}" if "kl" in found else "",
        "seconds a lesson": f"{found['seconds']:.2f}",
    }


def recipe_of(arm: str, recipe: Recipe) -> Recipe:
    """Return what of a recipe an arm trains by."""
    left_out = {"kl_weight": ("no KL", "none"), "protection": ("no protection", "none")}
    return recipe.model_copy(update={name: 0.0 for name, arms in left_out.items() if arm in arms})
