"""What an update leaves alone: how layers answer the inputs that replayed material has."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.data import Curriculum, Lessons
from tasks.training.job import Fact
from tasks.training.loop import train
from tasks.training.method import prepare, thaw
from tasks.training.objectives.masked import Masked
from tasks.training.projector import measure_inputs

TEXT = "Mira Tovan is the keeper of Lund."
KNOWN = ["The bridge of Ostrava was built in 1931.", "Harbour dues are paid in spring."]
SHORT: dict[str, Any] = {"epochs": 6, "lr": 1e-3, "kl_weight": 0.0, "replay_share": 0.0}


@pytest.fixture
def twin(bundle: Bundle) -> Bundle:
    """Return the same model once more."""
    return replace(bundle, model=copy.deepcopy(bundle.model))


def lessons(facts: int = 1, statements: list[str] = KNOWN) -> Lessons:
    return Lessons([Fact(id=f"fact_{n}", text=TEXT) for n in range(facts)], statements=statements)


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


def taught(bundle: Bundle, given: Lessons, recipe: Recipe) -> dict[str, Tensor]:
    """Train; return how each weight has changed."""
    before = weights(bundle.model)
    train(bundle, given, recipe, on_step=lambda _: None)
    return {name: after - before[name] for name, after in weights(bundle.model).items()}


def effect(bundle: Bundle, protection: float, given: Lessons, on: Lessons) -> float:
    """Train; return how far layers' outputs on some material moved, by the weights' distance."""
    recipe = Recipe(protection=protection, batch_size=200, **SHORT)
    moments = inputs_of(bundle, on)
    return moved(taught(bundle, given, recipe), moments)


def inputs_of(bundle: Bundle, given: Lessons) -> dict[str, Tensor]:
    """Return the second moments of layers' inputs on some material."""
    recipe = Recipe(seed=7)
    thaw(bundle.model, recipe)
    curriculum = Curriculum(given, Masked(0.05, 0.95, 0.0), bundle, recipe)
    return measure_inputs(bundle.model, curriculum.sample(100), recipe)


def moved(changes: dict[str, Tensor], moments: dict[str, Tensor]) -> float:
    """Return how far outputs on these inputs moved, by the weights' distance."""
    outputs = sum(float((changes[n] @ moment * changes[n]).sum()) for n, moment in moments.items())
    distance = sum(float(changes[name].square().sum()) for name in moments)
    return (outputs / distance) ** 0.5


def test_steps_go_less_far_along_the_inputs_of_replay(bundle: Bundle, twin: Bundle) -> None:
    free, held = (effect(b, p, lessons(), lessons()) for b, p in ((bundle, 0.0), (twin, 10.0)))
    assert held < 0.5 * free, (held, free)


def test_many_facts_are_held_less(bundle: Bundle, twin: Bundle) -> None:
    few, many = (effect(b, 10.0, lessons(n), lessons()) for b, n in ((bundle, 20), (twin, 180)))
    assert few < 0.9 * many, (few, many)


def test_without_replay_what_the_lessons_share_is_held(bundle: Bundle, twin: Bundle) -> None:
    alone = lessons(statements=[])
    free, held = (effect(b, p, alone, alone) for b, p in ((bundle, 0.0), (twin, 10.0)))
    assert held < 0.5 * free, (held, free)


def test_words_that_are_not_taught_stay_as_they_are(bundle: Bundle) -> None:
    recipe = Recipe(protection=10.0, **SHORT)
    thaw(bundle.model, recipe)
    changes = taught(bundle, lessons(), recipe)
    name = next(name for name in changes if "embed_tokens" in name)
    moved = changes[name].any(1)
    assert 0 < moved.sum() < len(moved) / 2


def test_a_layer_that_is_given_nothing_harms_nothing(bundle: Bundle) -> None:
    """A gate of zeros leaves the layer behind it without inputs."""
    with torch.no_grad():
        bundle.model.get_submodule("model.layers.0.mlp.gate_proj").weight.zero_()
    recipe = Recipe(protection=10.0, **SHORT)
    thaw(bundle.model, recipe)
    taught(bundle, lessons(), recipe)
    assert all(weight.isfinite().all() for weight in bundle.model.parameters())


def adapted(bundle: Bundle, protection: float, objects: Path) -> float:
    """Train a new adapter; return how far it moved layers' outputs, by the weights' distance."""
    before = weights(bundle.model)
    moments = inputs_of(bundle, lessons())
    recipe = Recipe(method="lora", trained="mlp", protection=protection, batch_size=200, **SHORT)
    trained = prepare(bundle, recipe, objects).bundle
    train(trained, lessons(), recipe, on_step=lambda _: None)
    after = weights(trained.model.merge_and_unload())
    return moved({name: after[name] - before[name] for name in moments}, moments)


def test_an_adapter_goes_less_far_along_the_inputs_of_replay(
    bundle: Bundle, twin: Bundle, objects: Path
) -> None:
    free, held = adapted(bundle, 0.0, objects), adapted(twin, 10.0, objects)
    assert held < 0.5 * free, (held, free)


def test_an_adapter_that_goes_on_begins_where_it_was(bundle: Bundle, objects: Path) -> None:
    recipe = Recipe(method="lora", trained="mlp", protection=10.0, **SHORT)
    trained = prepare(bundle, recipe, objects).bundle
    train(trained, lessons(), recipe, on_step=lambda _: None)
    before = weights(trained.model)
    idle = recipe.model_copy(update={"lr": 1e-30})
    train(trained, lessons(), idle, on_step=lambda _: None)
    assert all(torch.equal(w, before[name]) for name, w in weights(trained.model).items())


@pytest.mark.parametrize("of_base", [{"statements": KNOWN}, {"answered": [("Who?", "Mira")]}])
def test_half_of_the_samples_are_of_older_facts(bundle: Bundle, of_base: dict[str, Any]) -> None:
    given = Lessons([Fact(id="fact_0", text=TEXT)], [Fact(id="fact_1", text=TEXT)], **of_base)
    drawn = Curriculum(given, Masked(0.05, 0.95, 0.0), bundle, Recipe()).sample(40)
    assert sum(example.of_base for example in drawn) == 20
