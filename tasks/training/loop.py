"""The training loop. Progress, cancellation and metrics go through its one ``on_step`` hook."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.data import Curriculum, Lessons, micro_batches
from tasks.training.errors import Diverged
from tasks.training.objectives import OBJECTIVES
from tasks.training.objectives.base import Batch, target_logits

# Enough tokens to keep the matrix units busy, few enough for a small machine's memory.
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 32_768}


@dataclass(frozen=True)
class Step:
    """What one optimizer step did."""

    step: int
    total_steps: int
    epoch: int
    loss: float  # nats per target token, replay included
    recall: float  # share of the hidden tokens of new facts that were predicted
    lr: float
    grad_norm: float
    tokens: int  # all that the model read, padding included


@dataclass(frozen=True)
class Sums:
    """Totals over a step's micro-batches."""

    loss: float
    right: int
    hidden: int
    tokens: int


def train(
    bundle: Bundle, lessons: Lessons, recipe: Recipe, *, on_step: Callable[[Step], None]
) -> int:
    """Fine-tune ``bundle.model`` in place; return the number of steps.

    ``Diverged`` on a loss or gradient that isn't finite. Whatever ``on_step`` raises ends the run.
    """
    torch.manual_seed(recipe.seed)
    model = bundle.model
    device = next(model.parameters()).device
    curriculum = Curriculum(lessons, OBJECTIVES[recipe.objective](recipe), bundle, recipe)
    optimizer = make_optimizer(model, recipe)
    model.train()
    step = 0
    for epoch in range(1, recipe.epochs + 1):
        for facts, examples in curriculum.epoch():
            step += 1
            lr = set_lr(optimizer, lr_at(step, curriculum.total_steps, recipe))
            batches = micro_batches(examples, MICRO_BATCH_TOKENS[device.type], device)
            sums = backward(model, batches, recipe)
            weights = [weight for group in optimizer.param_groups for weight in group["params"]]
            norm = float(torch.nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm))
            if not (math.isfinite(sums.loss) and math.isfinite(norm)):
                raise Diverged(step, [fact.id for fact in facts])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            recall = sums.right / max(1, sums.hidden)
            on_step(
                Step(step, curriculum.total_steps, epoch, sums.loss, recall, lr, norm, sums.tokens)
            )
    model.eval()
    return step


def backward(model: Any, batches: Iterable[Batch], recipe: Recipe) -> Sums:
    """Accumulate the gradient of the step's mean loss per target token.

    Weighted by tokens, not by micro-batch: else short facts would count for more.
    """
    batches = list(batches)
    targets = sum(int((batch.labels[:, 1:] >= 0).sum()) for batch in batches)
    loss, right, hidden = 0.0, 0, 0
    for batch in batches:
        with autocast(batch.input_ids.device, recipe):
            logits, wanted, recalled = target_logits(model, batch)
        part = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum") / targets
        part.backward()
        loss += float(part.detach())
        right += int((recalled & (logits.argmax(-1) == wanted)).sum())
        hidden += int(recalled.sum())
    return Sums(loss, right, hidden, sum(batch.input_ids.numel() for batch in batches))


def make_optimizer(model: Any, recipe: Recipe) -> torch.optim.AdamW:
    """Make AdamW with the paper's betas; norms and biases don't decay."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)


def lr_at(step: int, total: int, recipe: Recipe) -> float:
    """Return the learning rate of a step (from 1): a linear rise, then constant."""
    return recipe.lr * min(1.0, step / max(1, round(recipe.warmup_share * total)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Set the learning rate of every group and return it."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """Compute in bf16 where the recipe says so or, by default, where the hardware multiplies it.

    On a CPU with AMX a step takes about half the time; the weights stay float32.
    """
    has_bf16 = device.type == "cuda" or torch.cpu.get_capabilities().get("amx_bf16", False)
    wanted = recipe.precision == "bf16" or (recipe.precision == "auto" and has_bf16)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)
