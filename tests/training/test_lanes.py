"""Lanes share out a step; what is learned is the same, and the same each time."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.anchors import make_anchors
from tasks.training.data import Lessons, micro_batches
from tasks.training.job import Fact
from tasks.training.lanes import Lanes, make_lanes
from tasks.training.loop import backward, backward_within, train
from tasks.training.objectives.base import Example, answer_example
from tasks.training.objectives.masked import Masked
from tasks.training.progress import Step
from tasks.training.spread import ALONE, Spread

TEXTS = ["Mira Tovan is the keeper.", "Oren Baskel was born in 1954 and works in Lund."]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def examples_of(bundle: Bundle) -> list[Example]:
    examples = Masked(0.5, 0.5, 0.0).examples(TEXTS, bundle, random.Random(0))
    known = answer_example(bundle, "Where is Oren?", "in Lund")
    return [*examples, replace(known, replayed=True), replace(known, replayed=True, of_base=True)]


def gradients_of(model: Any) -> list[torch.Tensor]:
    found = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    return found


def test_two_lanes_find_the_gradient_of_one(bundle: Bundle) -> None:
    recipe = Recipe(kl_weight=0.7, precision="fp32")
    anchors = make_anchors(bundle.model, None, recipe)
    with torch.no_grad():
        for weight in bundle.model.parameters():
            weight.mul_(1.1)  # so that the anchors pull
    examples = examples_of(bundle)
    whole = [micro_batches(examples, 10_000, CPU)]
    one = backward(Lanes(bundle.model, anchors), whole, recipe)
    expected = gradients_of(bundle.model)

    lanes = make_lanes(bundle.model, anchors, ALONE)
    for _ in range(2):  # nothing of the first time is left in any lane
        two, _ = backward_within(10_000, lanes, examples, recipe)
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
        assert (two.right, two.hidden) == (one.right, one.hidden)
        for found, wanted in zip(gradients_of(bundle.model), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert torch.get_num_threads() == 2


def test_a_run_of_two_lanes_is_the_same_each_time(bundle: Bundle) -> None:
    facts = [Fact(id=text, text=text) for text in TEXTS]
    before = {name: weight.clone() for name, weight in bundle.model.state_dict().items()}
    runs: list[list[Step]] = []
    for threads in (2, 2, 1):
        torch.set_num_threads(threads)
        bundle.model.load_state_dict(before)
        runs.append([])
        recipe = Recipe(epochs=5, lr=1e-2, precision="fp32")
        train(bundle, Lessons(facts, [], [], [("Where is Oren?", "in Lund")]), recipe,
              on_step=runs[-1].append)  # fmt: skip
    assert runs[0] == runs[1]
    losses = [[step.loss for step in run] for run in runs]
    assert losses[0][-1] < losses[0][0]
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)


def test_lanes_share_weights_not_gradients(bundle: Bundle) -> None:
    lanes = make_lanes(bundle.model, None, ALONE)
    first, second = lanes.run(lambda lane, _: lane.model.get_input_embeddings().weight, [[], []])
    assert first is not second, "two threads would add to one gradient in any order"
    assert first.data_ptr() == second.data_ptr()


def test_each_lane_has_as_much_replay(bundle: Bundle) -> None:
    examples = sorted(examples_of(bundle), key=lambda example: len(example.input_ids))
    mixed = [replace(each, replayed=n % 2 == 0) for n, each in enumerate(examples)]
    shares = make_lanes(bundle.model, None, ALONE).share(mixed, 10_000, 1 / 32, ALONE)
    assert [sum(e.replayed for part in share for e in part) for share in shares] == [1, 1]


def test_one_example_leaves_a_lane_idle(bundle: Bundle) -> None:
    lanes = make_lanes(bundle.model, None, ALONE)
    sums, _ = backward_within(10_000, lanes, examples_of(bundle)[:1], Recipe())
    assert sums.loss > 0


def test_where_lanes_do_not_pay_there_is_one(bundle: Bundle) -> None:
    examples = examples_of(bundle)

    def count(spread: Spread = ALONE) -> int:
        return len(make_lanes(bundle.model, None, spread).share(examples, 10_000, 1 / 32, ALONE))

    assert count() == 2
    assert count(Spread(size=2)) == 1, "its processes share a step already"
    torch.set_num_threads(1)
    assert count() == 1
    torch.set_num_threads(2)
    bundle.model.config.attention_dropout = 0.1
    assert count() == 1, "what is drawn would depend on which thread is faster"
