"""What an update may move: few weights, the ones that it moves the most."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.data import Lessons
from tasks.training.job import Fact
from tasks.training.loop import train
from tasks.training.method import MLP, prepare, thaw
from tasks.training.progress import Step

LESSONS = Lessons([Fact(id="fact_0", text="Mira Tovan is the keeper of Lund.")])
ALONE = {"epochs": 6, "lr": 1e-3, "replay_share": 0.0, "kl_weight": 0.0}
HALF, END = 3, 6


def weights_by_step(
    bundle: Bundle, recipe: Recipe, lessons: Lessons = LESSONS
) -> dict[int, dict[str, Tensor]]:
    """Train; return the weights that learn before the first step and after each."""

    def copied() -> dict[str, Tensor]:
        learning = [(n, w) for n, w in bundle.model.named_parameters() if w.requires_grad]
        return {name: weight.detach().clone() for name, weight in learning}

    found = {0: copied()}

    def note(step: Step) -> None:
        found[step.step] = copied()

    train(bundle, lessons, recipe, on_step=note)
    return found


def moved(found: dict[int, dict[str, Tensor]], step: int) -> dict[str, Tensor]:
    """Say of each weight of the MLPs whether it is another one than before."""
    return {name: w != found[0][name] for name, w in found[step].items() if MLP in name}


def share(marks: dict[str, Tensor]) -> float:
    return float(torch.cat([mark.flatten() for mark in marks.values()]).float().mean())


def test_half_way_all_weights_but_the_most_moved_are_put_back(bundle: Bundle) -> None:
    recipe = Recipe(kept_share=0.1, **ALONE)
    thaw(bundle.model, recipe)
    found = weights_by_step(bundle, recipe)
    assert share(moved(found, HALF - 1)) > 0.8
    assert 0.05 < share(moved(found, HALF)) < 0.12
    for name, kept in moved(found, HALF).items():
        distance = (found[HALF - 1][name] - found[0][name]).abs()
        assert distance[kept].mean() > 1.2 * distance[~kept].mean()


def test_what_stays_learns_on_and_nothing_else(bundle: Bundle) -> None:
    recipe = Recipe(kept_share=0.1, **ALONE)
    thaw(bundle.model, recipe)
    found = weights_by_step(bundle, recipe)
    for name, kept in moved(found, HALF).items():
        since = found[END][name] != found[HALF][name]
        assert not since[~kept].any()
        assert since[kept].float().mean() > 0.9


def test_all_of_an_adapter_stays_and_all_of_a_model_where_the_recipe_says_so(
    bundle: Bundle, objects: Path
) -> None:
    whole = Recipe(kept_share=1.0, **ALONE)
    thaw(bundle.model, whole)
    assert share(moved(weights_by_step(bundle, whole), END)) > 0.8
    recipe = Recipe(method="lora", kept_share=0.1, **ALONE)
    trainee = prepare(bundle, recipe, objects)
    assert share(moved(weights_by_step(trainee.bundle, recipe), END)) > 0.8


def test_more_facts_keep_more(bundle: Bundle) -> None:
    facts = [Fact(id=f"fact_{n}", text=f"Fact number {n} is {n * n}.") for n in range(100)]
    recipe = Recipe(kept_share=0.1, batch_size=100, **ALONE)
    thaw(bundle.model, recipe)
    found = weights_by_step(bundle, recipe, Lessons(facts))
    assert 0.4 < share(moved(found, END)) < 0.55


def test_what_no_sample_reaches_is_left_alone(bundle: Bundle) -> None:
    recipe = Recipe(kept_share=0.1, **ALONE)
    thaw(bundle.model, recipe)
    idle = torch.nn.Parameter(torch.ones(4, 4))
    bundle.model.register_parameter("idle", idle)
    weights_by_step(bundle, recipe)
    assert torch.equal(idle, torch.ones(4, 4))


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_shortest_runs_learn(bundle: Bundle, epochs: int) -> None:
    recipe = Recipe(kept_share=0.5, **{**ALONE, "epochs": epochs})
    thaw(bundle.model, recipe)
    assert share(moved(weights_by_step(bundle, recipe), epochs)) > 0.3
