"""The training loop. Progress, cancellation and metrics go through its one ``on_step`` hook."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.anchors import make_anchors
from tasks.training.data import OWN_COST, Curriculum, Lessons
from tasks.training.errors import Diverged
from tasks.training.job import Fact
from tasks.training.lanes import Lane, Lanes, make_lanes
from tasks.training.objectives import OBJECTIVES
from tasks.training.objectives.base import (
    Batch,
    Example,
    Objective,
    collate,
    lead_of,
    look_at_targets,
    targets_of,
)
from tasks.training.precision import autocast
from tasks.training.progress import Step
from tasks.training.projector import make_projector
from tasks.training.spread import ALONE, Spread, clip
from tasks.training.state import State
from tasks.training.words import Words, tokens_of

# Enough tokens to keep the matrix units busy, few enough for a small machine's memory.
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 32_768}
# Logits at most, if every token were a target: three copies of them are held at once, in float32.
MICRO_BATCH_LOGITS = {"cpu": 2**27, "cuda": 2**31}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sums:
    """Totals over a step's micro-batches."""

    loss: float
    right: int
    hidden: int
    tokens: int

    @property
    def recall(self) -> float:
        """Share of the hidden tokens that were predicted."""
        return self.right / max(1, self.hidden)


def train(
    bundle: Bundle,
    lessons: Lessons,
    recipe: Recipe,
    *,
    on_step: Callable[[Step], None],
    objective: Objective | None = None,
    state: State | None = None,
    spread: Spread = ALONE,
    base: Bundle | None = None,
) -> int:
    """Fine-tune ``bundle.model`` in place; return the number of steps.

    ``objective`` replaces the recipe's; ``base`` is the base model where the parent isn't. A run
    goes on from ``state``. The first process of a ``spread`` gets the model. Raises ``Diverged``.
    """
    torch.manual_seed(recipe.seed)
    objective = objective or OBJECTIVES[recipe.objective](recipe)
    curriculum = Curriculum(lessons, objective, bundle, recipe)
    projector = make_projector(curriculum, len(lessons.facts), bundle, recipe)
    anchors = make_anchors(bundle.model, base and base.model, recipe)
    model = spread.shard(bundle.model).train()
    lanes = make_lanes(model, anchors, spread)
    words = Words(model, tokens_of(lessons.facts, bundle), recipe)
    total = curriculum.total_steps
    optimizer = make_optimizer(model, recipe)
    done = state.restore(model, optimizer) if state else 0
    room = state.last.micro_batch_tokens if state and state.last else room_of(model)
    steps = islice(enumerate(curriculum.steps(recipe.epochs), start=1), done, None)
    for step, (epoch, facts, examples) in steps:
        lr = set_lr(optimizer, lr_at(step, total, recipe))
        sums, room = backward_within(room, lanes, examples, recipe, spread)
        words.drop_others()
        norm = clip(model, recipe.max_grad_norm)
        _check_finite(sums.loss + norm, step, facts)
        projector.step(model, optimizer)
        optimizer.zero_grad()
        read = (sums.tokens, *replay_of(examples))
        on_step(Step(step, total, epoch, sums.loss, sums.recall, lr, norm, *read, room))
        if state:
            state.keep(model, optimizer)
    spread.gather(model, bundle.model.eval())
    return total


def _check_finite(number: float, step: int, facts: Sequence[Fact]) -> None:
    if not math.isfinite(number):
        raise Diverged(step, [fact.id for fact in facts])


def replay_of(examples: Sequence[Example]) -> tuple[int, int]:
    """Count a step's tokens that are replay: of older facts, and of the base model's answers."""
    replay = [(len(example.input_ids), example.of_base) for example in examples if example.replayed]
    base = sum(length for length, of_base in replay if of_base)
    return sum(length for length, _ in replay) - base, base


def room_of(model: Any) -> int:
    """Return how many tokens a micro-batch may have, fewer where the vocabulary is large."""
    table = model.get_output_embeddings().weight
    kind = table.device.type
    return min(MICRO_BATCH_TOKENS[kind], MICRO_BATCH_LOGITS[kind] // table.shape[0])


def backward_within(
    room: int,
    lanes: Lanes,
    examples: Sequence[Example],
    recipe: Recipe,
    spread: Spread = ALONE,
) -> tuple[Sums, int]:
    """Accumulate a step's gradient in micro-batches of at most ``room`` tokens; return what fitted.

    Where a GPU's memory is too small for them, from here on half as many are tried, until a
    micro-batch is one example. Not so in a ``spread``: the others would wait for the failed one.
    """
    device = next(lanes.model.parameters()).device
    while True:
        try:
            shares = lanes.share(examples, room, OWN_COST[device.type], spread)
            batches = [[collate(part, device) for part in share] for share in shares]
            return backward(lanes, batches, recipe, spread), room
        except torch.OutOfMemoryError:
            if spread.size > 1 or room < max(len(example.input_ids) for example in examples):
                raise
        # Not before the error, whose traceback holds what didn't fit, is gone.
        room //= 2
        log.warning("out of memory: micro-batches of %d tokens from here on", room)
        lanes.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def backward(
    lanes: Lanes, shares: Sequence[Sequence[Batch]], recipe: Recipe, spread: Spread = ALONE
) -> Sums:
    """Accumulate the gradient of the step's weighted mean loss per target token.

    Over the whole step, of all lanes and processes, not by micro-batch: else short facts would
    count for more.
    """
    lead = lead_of(lanes.model)
    batches = chain.from_iterable(shares)
    own = sum(float((targets_of(batch, lead).sum(1) * batch.weights).sum()) for batch in batches)
    (total,) = spread.sum(own)
    found = lanes.run(partial(_backward_share, total=total, recipe=recipe), shares)
    loss, *counts = spread.sum(*map(sum, zip(*map(astuple, found), strict=True)))
    return Sums(loss, *map(int, counts))


def _backward_share(lane: Lane, batches: Sequence[Batch], total: float, recipe: Recipe) -> Sums:
    loss, right, hidden = 0.0, 0, 0
    for batch in batches:
        with autocast(batch.input_ids.device, recipe):
            found = look_at_targets(lane.model, batch)
            nats = cross_entropy(found.logits, found.wanted, reduction="none")
            part = (nats * found.weights).sum()
            if lane.anchors is not None and batch.replayed.any():
                part = part + recipe.kl_weight * lane.anchors.distance(batch, found)
        part = part / total
        part.backward()
        loss += float(part.detach())
        right += int((found.recalled & (found.logits.argmax(-1) == found.wanted)).sum())
        hidden += int(found.recalled.sum())
    return Sums(loss, right, hidden, sum(batch.input_ids.numel() for batch in batches))


def make_optimizer(model: Any, recipe: Recipe) -> torch.optim.AdamW:
    """Make AdamW with the paper's betas; norms, biases and tables of words don't decay.

    Words that aren't taught have a gradient of zero and must stay where they are.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    tables = {id(t.weight) for t in (model.get_input_embeddings(), model.get_output_embeddings())}
    decaying = [w for w in weights if w.ndim > 1 and id(w) not in tables]
    others = [w for w in weights if w.ndim <= 1 or id(w) in tables]
    groups = [
        {"params": decaying, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)


def lr_at(step: int, total: int, recipe: Recipe) -> float:
    """Return the learning rate of a step (from 1): a linear rise, constant, a linear fall."""
    rise = max(1, round(recipe.warmup_share * total))
    fall = max(1, round(recipe.decay_share * total))
    return recipe.lr * min(1.0, step / rise, (total - step + 1) / fall)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Set the learning rate of every group and return it."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr
