"""The plain loop that the trainer is held to: masked fine-tuning as arXiv 2510.09885 describes it.

A batch is padded to its longest text and has one share t of masked tokens; logits are computed at
every position; all weights learn, for a fixed number of epochs at a rate that stays up. Optimizer
and compute type are the trainer's own, which favours this loop.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from app.lm.chat import encode_text, end_id
from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.loop import make_optimizer, set_lr
from tasks.training.objectives.base import Example, collate
from tasks.training.objectives.masked import recovery_example
from tasks.training.precision import autocast

WARMUP_SHARE = 0.02


@dataclass(frozen=True)
class Paper:
    """What the plain loop is tried with; the rest is as in the paper."""

    lr: float
    t_min: float = 0.05
    t_max: float = 0.95
    epochs: int = 1
    batch_size: int = 32
    seed: int = 0

    @property
    def name(self) -> str:
        """Return it as a key in the results."""
        return f"lr {self.lr:g}, t {self.t_min:g}-{self.t_max:g}"


def train_plainly(
    bundle: Bundle, texts: Sequence[str], paper: Paper, on_step: Callable[[], None]
) -> None:
    """Fine-tune in place; whatever ``on_step`` raises ends the run."""
    rng = random.Random(paper.seed)
    model, device = bundle.model, next(bundle.model.parameters()).device
    recipe = Recipe(lr=paper.lr, weight_decay=0.1)
    optimizer = make_optimizer(model, recipe)
    rows = [encode_text(bundle.tokenizer, text) for text in texts]
    steps = paper.epochs * -(-len(rows) // paper.batch_size)
    done = 0
    model.train()
    for _ in range(paper.epochs):
        order = rng.sample(rows, len(rows))
        for start in range(0, len(order), paper.batch_size):
            done += 1
            set_lr(optimizer, paper.lr * min(1.0, done / max(1, round(WARMUP_SHARE * steps))))
            t = rng.uniform(paper.t_min, paper.t_max)
            chosen = order[start : start + paper.batch_size]
            batch = collate([mask(bundle, ids, t, rng) for ids in chosen], device)
            with autocast(device, recipe):
                loss = model(
                    input_ids=batch.input_ids,
                    attention_mask=batch.attention_mask,
                    labels=batch.labels,
                    use_cache=False,
                ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            on_step()
    model.eval()


def mask(bundle: Bundle, ids: Sequence[int], t: float, rng: random.Random) -> Example:
    """Hide each token with probability t; the reply recovers the text."""
    hidden = {at for at in range(len(ids)) if rng.random() < t}
    return recovery_example(bundle, ids, hidden, end_id(bundle.tokenizer))
