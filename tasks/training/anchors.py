"""What a model is held to on replay: its parent on older facts, the base model on what that knew.

Held to its parent alone, each update drifts a little from the one before, and nothing calls a long
line of them back (docs/knowledge.md).
"""

import copy
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from app.recipe import Recipe
from tasks.training.objectives.base import Batch, Targets, lead_of, look_at_targets, targets_of


@dataclass(frozen=True)
class Anchors:
    """The parent as it is before training, and the base model, which may be the same."""

    parent: Any
    base: Any

    def distance(self, batch: Batch, found: Targets) -> Tensor:
        """Return KL(anchor || model) in nats, a weighted sum over targets of replayed examples."""
        if self.base is self.parent:
            return _distance(self.parent, batch, batch.replayed, found)
        parts = ((self.parent, batch.replayed & ~batch.of_base), (self.base, batch.of_base))
        found_parts = [_distance(model, batch, rows, found) for model, rows in parts if rows.any()]
        return torch.stack(found_parts).sum()


def make_anchors(model: Any, base: Any, recipe: Recipe) -> Anchors | None:
    """Copy the parent before it is trained, or None; weights that stay frozen are shared."""
    if recipe.kl_weight == 0:
        return None
    tensors = chain(model.parameters(), model.buffers())
    shared = {id(tensor): tensor for tensor in tensors if not tensor.requires_grad}
    parent = copy.deepcopy(model, shared).requires_grad_(False).eval()
    return Anchors(parent, parent if base is None else base.requires_grad_(False).eval())


def _distance(anchor: Any, batch: Batch, rows: Tensor, found: Targets) -> Tensor:
    chosen = Batch(*(getattr(batch, field.name)[rows] for field in fields(batch)))
    with torch.no_grad():
        wanted = look_at_targets(anchor, chosen).logits.log_softmax(-1)
    is_target = targets_of(batch, lead_of(anchor))
    here = rows[:, None].expand_as(is_target)[is_target]
    said = found.logits[here].log_softmax(-1)
    nats = kl_div(said, wanted, log_target=True, reduction="none").sum(-1)
    return (nats * found.weights[here]).sum()
