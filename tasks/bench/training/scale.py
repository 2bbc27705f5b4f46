"""Part 5: training seconds per fact, from few facts to many in one update."""

import time

from app.recipe import Recipe
from tasks.bench.cells import Ground as Kept
from tasks.bench.cells import lessons as lessons_of
from tasks.bench.experiment import Cell
from tasks.bench.figures import Figure
from tasks.bench.training.arms import Lap, as_facts, middle, run_trainer
from tasks.bench.training.plan import Plan
from tasks.bench.training.subjects import Ground
from tasks.training.method import prepare


def measure(ground: Ground, kept: Kept, plan: Plan) -> Cell:
    """Train on each number of facts in turn, by the default recipe with fewer epochs."""
    recipe = Recipe(epochs=plan.scale_epochs)
    texts = [subject.text for subject in ground.facts(max(plan.scale))]
    found: dict[int, list[Lap]] = {count: [] for count in plan.scale}
    for _ in range(plan.scale_rounds):
        for count in plan.scale:
            trainee = prepare(ground.open_starter(), recipe, ground.store).bundle
            lessons = lessons_of(kept, as_facts(texts[:count]), recipe)
            began, began_cpu = time.perf_counter(), time.process_time()
            run_trainer(trainee, lessons, recipe, lambda: None)
            spent = time.perf_counter() - began, time.process_time() - began_cpu
            found[count].append((spent[0] / count, spent[1] / count))
    return {"laps": {str(count): middle(laps) for count, laps in found.items()}}


def figure(cell: Cell, plan: Plan) -> Figure:
    """Say how much more the dearest number of facts costs than the cheapest."""
    spread, spread_cpu = (
        max(side) / min(side) for side in zip(*cell["laps"].values(), strict=True)
    )
    each = ", ".join(f"{count}: {1000 * lap[0]:.0f}" for count, lap in cell["laps"].items())
    return Figure(
        f"cost per fact, {plan.scale_epochs} of {Recipe().epochs} epochs",
        f"{spread:.2f}x between dearest and cheapest (ms a fact by facts in the update: {each};"
        f" by CPU time {spread_cpu:.2f}x)",
        "<= 1.5x",
        spread <= 1.5,
    )
