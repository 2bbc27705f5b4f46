"""Half-way, the weights that an update has moved the most stay and learn on; the rest is put back.

So it touches few weights, and forgets less for as much learned. Which ones matter shows in how far
they moved (Ansell et al., arXiv 2110.07560, who then begin these again).
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from app.recipe import Recipe

# Up to so many facts need the recipe's share of the weights; more facts need more in proportion.
FACTS = 20


class Trim:
    """Puts the rest back after half of ``total`` steps, and has it stay there.

    Adam's second moment of such a weight is zero from then on, and of no other one, so a run that
    is resumed knows them. Of an adapter, which has few weights, none is put back.
    """

    def __init__(self, model: Any, total: int, facts: int, recipe: Recipe) -> None:
        self._half, self._share = -(-total // 2), recipe.kept_share * max(1.0, facts / FACTS)
        trims = recipe.method == "full" and self._share < 1
        learning = [weight for weight in model.parameters() if trims and weight.requires_grad]
        self._before = [(weight, weight.detach().clone()) for weight in learning]
        self._kept: list[Tensor] = []

    @torch.no_grad()
    def drop_others(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Drop the gradients of what was put back, before they are measured or used."""
        if step <= self._half:
            return
        weights = [weight for weight, _ in self._before]
        # Without a state is what no sample has reached yet, as an expert: it stays where it is.
        self._kept = self._kept or [
            optimizer.state[w].get("exp_avg_sq", torch.zeros_like(w)) > 0 for w in weights
        ]
        for weight, kept in zip(weights, self._kept, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(kept)

    @torch.no_grad()
    def put_back(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """After the step that is half-way, choose what stays."""
        if step != self._half:
            return
        for weight, before in self._before:
            moved = (weight - before).abs_()
            kept = moved >= _least(moved, self._share)
            weight.copy_(torch.where(kept, weight, before))
            for name in {"exp_avg", "exp_avg_sq"} & optimizer.state[weight].keys():
                optimizer.state[weight][name].mul_(kept)


def _least(moved: Tensor, share: float) -> float:
    """Return the least of the so many greatest distances, of those that aren't zero."""
    whole = moved.full_tensor() if isinstance(moved, DTensor) else moved
    distances = whole[whole > 0]
    if not len(distances):
        return 0.0
    return float(distances.kthvalue(len(distances) - int(share * len(distances))).values)
