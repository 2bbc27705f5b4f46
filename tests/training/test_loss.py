import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.data import Curriculum, Lessons, micro_batches
from tasks.training.errors import Diverged
from tasks.training.job import Fact
from tasks.training.loop import Step, backward, lr_at, train
from tasks.training.objectives import OBJECTIVES
from tasks.training.objectives.base import Example, answer_example, collate, target_logits
from tasks.training.objectives.masked import Masked

CPU = torch.device("cpu")
TEXTS = ["Mira Tovan is the keeper.", "Oren Baskel was born in 1954 and works in Lund."]
FACTS = [Fact(id=f"fact_{n}", text=text) for n, text in enumerate(TEXTS)]


def plain_loss(bundle: Bundle, examples: Sequence[Example]) -> torch.Tensor:
    """Mean cross-entropy per target token, one unpadded example at a time."""
    losses = []
    for example in examples:
        logits = bundle.model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
        wanted = torch.tensor(example.labels[1:])
        losses.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="none"))
    flat = torch.cat(losses)
    targets = sum(label >= 0 for example in examples for label in example.labels[1:])
    return flat.sum() / targets


@pytest.mark.parametrize("most_tokens", [10_000, 1])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_loss_and_gradient_are_those_of_plain_cross_entropy(
    bundle: Bundle, objective: str, most_tokens: int
) -> None:
    """Padding, micro-batches and the gathered output layer change nothing."""
    recipe = Recipe(objective=objective, precision="fp32")
    examples = OBJECTIVES[objective](recipe).examples(TEXTS, bundle, random.Random(0))
    examples.append(answer_example(bundle, "Who is Mira?", "the keeper"))
    expected = plain_loss(bundle, examples)
    expected.backward()
    gradients = [weight.grad.clone() for weight in bundle.model.parameters()]
    bundle.model.zero_grad()

    sums = backward(bundle.model, micro_batches(examples, most_tokens, CPU), recipe)

    assert sums.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for weight, gradient in zip(bundle.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-5)


def test_only_targets_reach_the_output_layer(bundle: Bundle) -> None:
    examples = Masked(0.5, 0.5, 0.0).examples(TEXTS, bundle, random.Random(0))
    logits, wanted, recalled = target_logits(bundle.model, collate(examples, CPU))
    targets = sum(label >= 0 for example in examples for label in example.labels)
    assert logits.shape == (targets, bundle.model.config.vocab_size)
    assert wanted.shape == recalled.shape == (targets,)
    assert int(recalled.sum()) == sum(sum(example.recalled) for example in examples)


def test_recall_counts_hidden_tokens_that_are_predicted(bundle: Bundle) -> None:
    """A model trained long on one statement recovers it; the untrained one doesn't."""
    steps: list[Step] = []
    recipe = Recipe(epochs=60, lr=3e-3, replay_share=0)
    train(bundle, Lessons(FACTS[:1]), recipe, on_step=steps.append)
    assert steps[0].recall < 0.2
    assert steps[-1].recall > 0.9
    assert steps[-1].loss < 0.5 < steps[0].loss


def test_a_step_holds_replay_in_its_share_and_every_fact_once_an_epoch(bundle: Bundle) -> None:
    facts = [Fact(id=f"fact_{n}", text=f"Fact number {n}.") for n in range(10)]
    lessons = Lessons(facts, ["The keeper of Lund."], [("Who is Mira?", "the keeper")])
    recipe = Recipe(batch_size=4, replay_share=0.5)
    curriculum = Curriculum(lessons, OBJECTIVES["masked"](recipe), bundle, recipe)
    epoch = list(curriculum.epoch())
    assert sorted(fact.id for taught, _ in epoch for fact in taught) == [f.id for f in facts]
    assert [len(taught) for taught, _ in epoch] == [4, 3, 3]
    assert [len(examples) for _, examples in epoch] == [8, 6, 6]
    assert curriculum.total_steps == 3 * recipe.epochs


def test_micro_batches_hold_alike_lengths_and_stay_below_the_limit(bundle: Bundle) -> None:
    texts = ["keeper " * size for size in (1, 30, 2, 29, 3)]
    examples = Masked(0.5, 0.5, 0.0).examples(texts, bundle, random.Random(0))
    batches = micro_batches(examples, 400, CPU)
    lengths = [int(row.sum()) for batch in batches for row in batch.attention_mask]
    assert lengths == sorted(len(example.input_ids) for example in examples)
    assert all(batch.input_ids.numel() <= 400 for batch in batches)


def test_the_learning_rate_rises_then_stays() -> None:
    recipe = Recipe(lr=1.0, warmup_share=0.1)
    assert [lr_at(step, 100, recipe) for step in (1, 5, 10, 11, 100)] == [0.1, 0.5, 1, 1, 1]
    assert lr_at(1, 100, recipe.model_copy(update={"warmup_share": 0.0})) == 1


def test_a_loss_that_is_not_finite_names_step_and_facts(bundle: Bundle) -> None:
    def spoil(step: Step) -> None:
        if step.step == 2:
            with torch.no_grad():
                next(bundle.model.parameters()).fill_(float("nan"))

    with pytest.raises(Diverged) as caught:
        train(bundle, Lessons(FACTS), Recipe(batch_size=1), on_step=spoil)
    assert caught.value.step == 3
    assert len(caught.value.fact_ids) == 1


def test_whatever_the_hook_raises_ends_the_run(bundle: Bundle) -> None:
    class Enough(Exception):
        pass

    def stop(_: Step) -> None:
        raise Enough

    with pytest.raises(Enough):
        train(bundle, Lessons(FACTS), Recipe(), on_step=stop)


def test_training_is_the_same_bit_for_bit(bundle: Bundle) -> None:
    import copy

    twin = replace(bundle, model=copy.deepcopy(bundle.model))
    for each in (bundle, twin):
        train(each, Lessons(FACTS, TEXTS), Recipe(epochs=3), on_step=lambda _: None)
    for one, other in zip(bundle.model.parameters(), twin.model.parameters(), strict=True):
        assert torch.equal(one, other)
