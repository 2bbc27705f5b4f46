"""Steps keep away from the inputs that replayed material has.

A layer whose weights change by D answers an input x differently by Dx. Adam's steps are of like
size along all inputs, and along those that all text shares they change every answer. So the steps
are multiplied by P = (I + s C)^-1, C the second moment of the layer's inputs, its mean diagonal 1:
what replay hardly uses is free, the rest is held (the P of Zeng et al., arXiv 1810.01256, of all
samples at once; inputs are the parent's, looked at before the first step). An adapter's D is BA,
and A alone meets the inputs: its steps are multiplied by P, and so is what it begins with.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.data import Curriculum, micro_batches
from tasks.training.objectives.base import Example, look_at_targets
from tasks.training.precision import autocast

# So many facts find the room that they need; for more, less is held, by the root of their number.
FACTS = 20
# Enough for inputs of some thousand dimensions: each sample has tens of tokens.
SAMPLES = 400
MICRO_BATCH_TOKENS = 1024  # a large vocabulary makes 600 MB of logits of these
A, B = ".lora_A.", ".lora_B."  # as peft names an adapter's factors


class Projector:
    """Takes an optimizer's steps, and what of them goes along inputs of replay back."""

    def __init__(self, factors: dict[str, Tensor], recipe: Recipe) -> None:
        self._factors = factors  # by the weight's name
        self._recipe = recipe

    @torch.no_grad()
    def step(self, model: Any, optimizer: torch.optim.Optimizer) -> None:
        """Take a step."""
        held = [(w, self._factors[n]) for n, w in model.named_parameters() if n in self._factors]
        # Shards are of whole rows, each of which is projected by itself.
        rows = [(w.to_local() if isinstance(w, DTensor) else w, factor) for w, factor in held]
        before = [weight.detach().clone() for weight, _ in rows]
        optimizer.step()
        for (weight, factor), old in zip(rows, before, strict=True):
            change = weight - old
            # Of a table of words most stay where they are.
            moved = change.any(1)
            with autocast(weight.device, self._recipe):
                change = change[moved] @ factor
            weight[moved] = old[moved] + change


def make_projector(curriculum: Curriculum, facts: int, bundle: Bundle, recipe: Recipe) -> Projector:
    """Look at what the parent's layers are given on replay, or on the lessons where there is none.

    Steps of weights that aren't a linear layer's stay as they are.
    """
    if recipe.protection == 0:
        return Projector({}, recipe)
    strength = recipe.protection / max(1.0, facts / FACTS) ** 0.5
    moments = measure_inputs(bundle.model, curriculum.sample(SAMPLES), recipe)
    factors = {name: _factor(moment, strength) for name, moment in moments.items()}
    if recipe.method == "lora":
        _turn_away(bundle.model, factors)
    return Projector(factors, recipe)


@torch.no_grad()
def _turn_away(model: Any, factors: dict[str, Tensor]) -> None:
    """Have a new adapter's A, drawn at random, read less of these inputs too; it stays as large."""
    weights = dict(model.named_parameters())
    for name, factor in factors.items():
        drawn, other = weights[name], weights[name.replace(A, B)]
        if not other.any():  # else it goes on from its parent's
            turned = drawn @ factor
            drawn.copy_(turned * (drawn.norm() / turned.norm()))


@torch.no_grad()
def measure_inputs(model: Any, examples: Sequence[Example], recipe: Recipe) -> dict[str, Tensor]:
    """Return the second moment of the inputs of each linear layer that learns: [in, in], float32.

    Of all tokens alike; keyed by the weight's name. An adapter's B has what A makes of inputs.
    """
    named = model.named_parameters()
    names = {w: name for name, w in named if w.requires_grad and B not in name}
    layers = {m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.weight in names}
    moments: dict[str, Tensor] = {}
    is_token = torch.empty(0)

    def note(layer: torch.nn.Linear, given: tuple[Tensor]) -> None:
        # A layer within a mixture of experts is given rows of tokens, which can't be told apart.
        whole = given[0].shape[:-1] == is_token.shape
        inputs = given[0][is_token] if whole else given[0].flatten(0, -2)
        inputs, name = inputs.float(), names[layer.weight]
        with torch.autocast(inputs.device.type, enabled=False):
            moments[name] = moments.get(name, 0) + inputs.T @ inputs

    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        device = next(model.parameters()).device
        for batch in micro_batches(examples, MICRO_BATCH_TOKENS, device):
            is_token = batch.attention_mask.bool()
            with autocast(device, recipe):
                look_at_targets(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return moments


def _factor(moment: Tensor, strength: float) -> Tensor:
    mean = moment.diagonal().mean().clamp_min(torch.finfo(moment.dtype).tiny)  # a dead layer's is 0
    held = moment / mean * strength
    held.diagonal().add_(1.0)
    return torch.linalg.inv(held)
