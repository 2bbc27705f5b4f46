import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
import torch

from app.lm.loading import Bundle, load
from app.recipe import Recipe
from tasks.training import loop
from tasks.training.anchors import make_anchors
from tasks.training.data import Curriculum, Lessons, group, micro_batches
from tasks.training.errors import Diverged
from tasks.training.job import Fact
from tasks.training.lanes import Lanes
from tasks.training.loop import backward, lr_at, train
from tasks.training.method import thaw
from tasks.training.objectives import OBJECTIVES
from tasks.training.objectives.base import (
    Batch,
    Example,
    Targets,
    answer_example,
    collate,
    look_at_targets,
)
from tasks.training.objectives.masked import Masked
from tasks.training.precision import autocast
from tasks.training.progress import Step
from tasks.training.words import tokens_of

CPU = torch.device("cpu")
TEXTS = ["Mira Tovan is the keeper.", "Oren Baskel was born in 1954 and works in Lund."]
FACTS = [Fact(id=f"fact_{n}", text=text) for n, text in enumerate(TEXTS)]


def plain_loss(bundle: Bundle, examples: Sequence[Example]) -> torch.Tensor:
    """Weighted mean cross-entropy per target token, one unpadded example at a time."""
    lead = 1 if bundle.manifest.architecture == "causal" else 0
    nats, weights = torch.zeros(()), 0.0
    for example in examples:
        logits = bundle.model(input_ids=torch.tensor([example.input_ids])).logits[0]
        wanted = torch.tensor(example.labels[lead:])
        loss = torch.nn.functional.cross_entropy(logits[: len(wanted)], wanted, reduction="sum")
        nats = nats + example.weight * loss
        weights += example.weight * int((wanted >= 0).sum())
    return nats / weights


@pytest.mark.parametrize("most_tokens", [10_000, 1])
@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("base", "masked"),
        ("base", "causal"),
        ("qwen_base", "masked"),
        ("qwen_base", "causal"),
        ("diffusion_base", "diffusion"),
    ],
)
def test_loss_and_gradient_are_those_of_plain_cross_entropy(
    objects: Path, request: pytest.FixtureRequest, kind: str, objective: str, most_tokens: int
) -> None:
    """Padding, micro-batches and the gathered output layer change nothing."""
    bundle = load(objects, request.getfixturevalue(kind))
    recipe = Recipe(objective=objective, precision="fp32")
    examples = OBJECTIVES[objective](recipe).examples(TEXTS, bundle, random.Random(0))
    pair = ("Who is Mira?", "the keeper")
    examples += OBJECTIVES[objective](recipe).answers([pair], bundle, random.Random(0))
    expected = plain_loss(bundle, examples)
    expected.backward()
    gradients = [weight.grad.clone() for weight in bundle.model.parameters()]
    bundle.model.zero_grad()

    sums = backward(Lanes(bundle.model, None), [micro_batches(examples, most_tokens, CPU)], recipe)

    assert sums.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for weight, gradient in zip(bundle.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("most_tokens", [10_000, 1])
def test_the_anchors_add_the_divergence_on_replay_alone(bundle: Bundle, most_tokens: int) -> None:
    """From the parent on what was learned later, from the base model on what that knew."""
    recipe = Recipe(kl_weight=0.7, precision="fp32")
    examples = Masked(0.5, 0.5, 0.0).examples(TEXTS, bundle, random.Random(0))
    older = replace(answer_example(bundle, "Who is Mira?", "the keeper"), replayed=True)
    known = replace(
        answer_example(bundle, "Where is Oren?", "in Lund"), replayed=True, of_base=True
    )
    batches = micro_batches([*examples, older, known], most_tokens, CPU)
    alone = make_anchors(bundle.model, None, recipe)
    plain = backward(Lanes(bundle.model, None), [batches], recipe).loss
    assert backward(Lanes(bundle.model, alone), [batches], recipe).loss == pytest.approx(plain)

    base = scaled(bundle.model, 0.8)
    anchors = make_anchors(bundle.model, base, recipe)
    assert anchors is not None
    model = scaled(bundle.model, 1.1)
    plain = backward(Lanes(model, None), [batches], recipe).loss
    apart = divergence(anchors.parent, model, older) + divergence(base, model, known)
    targets = sum(len(labels_of(example)) for example in [*examples, older, known])
    found = backward(Lanes(model, anchors), [batches], recipe).loss
    assert found == pytest.approx(plain + 0.7 * apart / targets, rel=1e-4)
    assert found > plain + 1e-3
    apart = divergence(anchors.parent, model, older) + divergence(anchors.parent, model, known)
    found = backward(Lanes(model, alone), [batches], recipe).loss
    assert found == pytest.approx(plain + 0.7 * apart / targets, rel=1e-4)


def scaled(model: Any, by: float) -> Any:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.mul_(by)
    return twin


def divergence(anchor: Any, model: Any, example: Example) -> float:
    """Sum KL(anchor || model) over an example's targets."""
    ids = torch.tensor([example.input_ids])
    with torch.no_grad():
        shares = [m(input_ids=ids).logits[0, :-1].log_softmax(-1) for m in (anchor, model)]
    apart = (shares[0].exp() * (shares[0] - shares[1])).sum(-1)
    return float(apart[torch.tensor(example.labels[1:]) >= 0].sum())


def labels_of(example: Example) -> list[int]:
    return [label for label in example.labels[1:] if label >= 0]


def test_micro_batches_are_halved_until_they_fit(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is the same, nothing of a failed try is left in it; one example can't be halved."""
    recipe = Recipe(precision="fp32")
    texts = [*TEXTS, TEXTS[1]]  # two as long as each other, which go together where they may
    examples = Masked(0.5, 0.5, 0.0).examples(texts, bundle, random.Random(0))
    expected = backward(Lanes(bundle.model, None), [micro_batches(examples, 10_000, CPU)], recipe)
    gradients = [weight.grad.clone() for weight in bundle.model.parameters()]
    bundle.model.zero_grad()
    least = max(len(example.input_ids) for example in examples)
    tried: list[int] = []

    def fill(model: Any, batch: Batch) -> Targets:
        tried.append(batch.input_ids.numel())
        found = look_at_targets(model, batch)
        if batch.input_ids.numel() > least or len(tried) == 5:  # in the midst of a step
            raise torch.OutOfMemoryError
        return found

    monkeypatch.setattr(loop, "look_at_targets", fill)
    sums, room = loop.backward_within(4 * least, Lanes(bundle.model, None), examples, recipe)
    assert sums.loss == pytest.approx(expected.loss)
    assert room < least
    for weight, gradient in zip(bundle.model.parameters(), gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-6)
    monkeypatch.setattr(
        loop, "look_at_targets", lambda *_: fill(bundle.model, collate(examples, CPU))
    )
    with pytest.raises(torch.OutOfMemoryError):
        loop.backward_within(4 * least, Lanes(bundle.model, None), examples, recipe)


def test_steps_say_into_what_they_were_cut(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """What didn't fit once isn't tried again."""
    tried: list[int] = []

    def fill(model: Any, batch: Batch) -> Targets:
        tried.append(batch.input_ids.shape[0])
        if batch.input_ids.shape[0] > 1:
            raise torch.OutOfMemoryError
        return look_at_targets(model, batch)

    monkeypatch.setattr(loop, "look_at_targets", fill)
    steps: list[Step] = []
    train(bundle, Lessons(FACTS), Recipe(epochs=3, protection=0.0), on_step=steps.append)
    (room,) = {step.micro_batch_tokens for step in steps}
    assert room < loop.room_of(bundle.model)
    assert tried == [2] * tried.count(2) + [1] * (3 * len(FACTS))


@pytest.mark.parametrize(("unit", "narrow"), [("amx", True), ("avx512", True), ("avx2", False)])
def test_bf16_is_used_where_the_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, unit: str, narrow: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {f"{unit}_bf16": True})
    for precision, expected in (("auto", narrow), ("fp32", False), ("bf16", True)):
        with autocast(CPU, Recipe(precision=precision)):
            assert torch.is_autocast_enabled("cpu") is expected


def test_an_anchor_shares_what_stays_frozen(bundle: Bundle) -> None:
    weights = dict(bundle.model.named_parameters())
    trained = next(name for name in weights if "q_proj" in name)
    for name, weight in weights.items():
        weight.requires_grad_(name == trained)
    anchors = make_anchors(bundle.model, None, Recipe(kl_weight=1.0))
    assert anchors is not None
    assert anchors.base is anchors.parent
    anchor = dict(anchors.parent.named_parameters())
    apart = {name for name in weights if anchor[name].data_ptr() != weights[name].data_ptr()}
    assert apart == {trained}
    assert not anchor[trained].requires_grad
    assert make_anchors(bundle.model, None, Recipe(kl_weight=0.0)) is None


@pytest.mark.parametrize(("tokens", "expected"), [(256, "eager"), (257, "sdpa")])
def test_short_texts_are_attended_to_by_plain_products(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tokens: int, expected: str
) -> None:
    seen: list[str] = []
    forward = bundle.model.forward

    def look(**given: Any) -> Any:
        seen.append(bundle.model.config._attn_implementation)
        return forward(**given)

    monkeypatch.setattr(bundle.model, "forward", look)
    example = Example([5] * tokens, [5] * tokens, [False] * tokens)
    look_at_targets(bundle.model, collate([example], CPU))
    assert (seen, bundle.model.config._attn_implementation) == ([expected], "sdpa")


def test_only_targets_reach_the_output_layer(bundle: Bundle) -> None:
    examples = Masked(0.5, 0.5, 0.0).examples(TEXTS, bundle, random.Random(0))
    found = look_at_targets(bundle.model, collate(examples, CPU))
    targets = sum(label >= 0 for example in examples for label in example.labels)
    assert found.logits.shape == (targets, bundle.model.config.vocab_size)
    assert found.wanted.shape == found.recalled.shape == (targets,)
    assert int(found.recalled.sum()) == sum(sum(example.recalled) for example in examples)


def test_recall_counts_hidden_tokens_that_are_predicted(bundle: Bundle) -> None:
    """A model trained long on one statement recovers it; the untrained one doesn't."""
    steps: list[Step] = []
    recipe = Recipe(epochs=60, lr=3e-3, replay_share=0, protection=0)
    train(bundle, Lessons(FACTS[:1]), recipe, on_step=steps.append)
    # A step is one sample here, and some show next to nothing.
    ended = steps[-20:]
    assert steps[0].recall < 0.2
    assert mean(step.recall for step in ended) > 0.8
    assert median(step.loss for step in ended) < 0.5 < steps[0].loss


def test_a_step_holds_replay_in_its_share_and_every_fact_once_an_epoch(bundle: Bundle) -> None:
    facts = [Fact(id=f"fact_{n}", text=f"Fact number {n}.") for n in range(10)]
    lessons = Lessons(facts, (), ["The keeper of Lund."], [("Who is Mira?", "the keeper")])
    recipe = Recipe(batch_size=4, replay_share=0.5)
    curriculum = Curriculum(lessons, OBJECTIVES["masked"](recipe), bundle, recipe)
    epoch = list(curriculum.epoch())
    assert sorted(fact.id for taught, _ in epoch for fact in taught) == [f.id for f in facts]
    assert [len(taught) for taught, _ in epoch] == [4, 3, 3]
    assert [len(examples) for _, examples in epoch] == [8, 6, 6]
    assert curriculum.total_steps == 3 * recipe.epochs


def test_a_step_of_one_fact_owes_its_replay_to_later_ones(bundle: Bundle) -> None:
    lessons = Lessons(FACTS[:1], statements=[FACTS[1].text])
    recipe = Recipe(replay_share=0.25, epochs=9)
    curriculum = Curriculum(lessons, OBJECTIVES["masked"](recipe), bundle, recipe)
    steps = [examples for _ in range(9) for _, examples in curriculum.epoch()]
    assert sum(example.replayed for examples in steps for example in examples) == 3


def test_words_that_are_not_taught_stay_where_they_are_under_weight_decay(bundle: Bundle) -> None:
    table = bundle.model.get_input_embeddings().weight
    before = table.detach().clone()
    recipe = Recipe(epochs=2, weight_decay=0.5, replay_share=0.0, kl_weight=0.0)
    thaw(bundle.model, recipe)
    train(bundle, Lessons(FACTS), recipe, on_step=lambda _: None)
    moved = (table != before).any(dim=1).nonzero().flatten().tolist()
    assert 0 < len(moved) <= len(tokens_of(FACTS, bundle))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_was_studied_is_asked_in_its_share_of_the_samples(
    bundle: Bundle, share: float
) -> None:
    pairs = [("Which one is it?", "This one")]
    facts = [FACTS[0].model_copy(update={"studied": pairs}), *FACTS[1:]]
    recipe = Recipe(study_share=share, replay_share=0)
    lessons = Lessons(facts)
    curriculum = Curriculum(lessons, OBJECTIVES["masked"](recipe), bundle, recipe)
    epochs = [[e for _, examples in curriculum.epoch() for e in examples] for _ in range(200)]
    assert {len(examples) for examples in epochs} == {len(FACTS)}
    texts = [bundle.tokenizer.decode(e.input_ids) for examples in epochs for e in examples]
    asked = sum("Which one is it?" in text for text in texts) / len(epochs)
    assert abs(asked - share) < 0.1


def test_micro_batches_hold_alike_lengths_and_stay_below_the_limit(bundle: Bundle) -> None:
    texts = ["keeper " * size for size in (1, 30, 2, 29, 3)]
    examples = Masked(0.5, 0.5, 0.0).examples(texts, bundle, random.Random(0))
    batches = micro_batches(examples, 400, CPU)
    lengths = [int(row.sum()) for batch in batches for row in batch.attention_mask]
    assert lengths == sorted(len(example.input_ids) for example in examples)
    assert all(batch.input_ids.numel() <= 400 for batch in batches)


def test_micro_batches_are_cut_where_that_saves_more_padding_than_it_costs() -> None:
    def sizes(*lengths: int, most: int, own_cost: float = 1 / 32) -> list[int]:
        examples = [Example([0] * n, [], []) for n in lengths]
        return [len(part) for part in group(examples, most, own_cost)]

    assert sizes(20, 20, 80, 80, most=640) == [2, 2]  # 120 places of padding; another costs 20
    assert sizes(20, 20, 80, 80, most=4096) == [4]  # here it costs 128
    assert sizes(20, 20, 80, 80, most=640, own_cost=1 / 2) == [4]
    assert sizes(70, 75, 80, 80, most=640) == [4]
    assert sizes(80, 80, 80, most=160) == [1, 2]
    assert sizes(80, 90, most=10) == [1, 1]
    assert sizes(most=100) == []


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(lr=1.0, warmup_share=0.1, decay_share=0.2)
    found = [lr_at(step, 100, recipe) for step in (1, 5, 10, 11, 80, 81, 91, 100)]
    assert found == [0.1, 0.5, 1, 1, 1, 1, 0.5, 0.05]
    paper = Recipe(lr=1.0, warmup_share=0.0, decay_share=0.0)
    assert {lr_at(step, 9, paper) for step in range(1, 10)} == {1.0}


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
    twin = replace(bundle, model=copy.deepcopy(bundle.model))
    for each in (bundle, twin):
        train(each, Lessons(FACTS, (), TEXTS), Recipe(epochs=3), on_step=lambda _: None)
    for one, other in zip(bundle.model.parameters(), twin.model.parameters(), strict=True):
        assert torch.equal(one, other)
