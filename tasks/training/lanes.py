"""A small model's step on several cores, each with micro-batches of its own.

One product after the other, its matrices are too small to keep two cores busy (decision 78).
"""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from tasks.training.anchors import Anchors
from tasks.training.data import group
from tasks.training.objectives.base import Batch, Example
from tasks.training.spread import Spread

# The starter, of 10 million parameters, trains 1.5 times as fast; of 45 million with a large
# vocabulary half as fast. More lanes than two haven't been measured.
MOST_PARAMETERS, MOST_LANES = 30_000_000, 2
T = TypeVar("T")


@dataclass(frozen=True)
class Lane:
    """The modules of one thread; a forward pass leaves marks on them, so no other may use them."""

    model: Any
    anchors: Anchors | None

    def twin(self) -> "Lane":
        """Copy the modules, over the same weights; what learns has a gradient of its own."""
        anchors = [self.anchors.parent, self.anchors.base] if self.anchors else []
        models = [self.model, *anchors]
        tensors = chain.from_iterable(chain(m.parameters(), m.buffers()) for m in models)
        return copy.deepcopy(self, {id(tensor): _alias(tensor) for tensor in tensors})


class Lanes:
    """Copies of a model's modules over the same weights, each with gradients of its own."""

    def __init__(self, model: Any, anchors: Anchors | None, count: int = 1) -> None:
        self.model = model
        first = Lane(model, anchors)
        self._lanes = [first, *(first.twin() for _ in range(count - 1))]

    def share(
        self, examples: Sequence[Example], room: int, own_cost: float, spread: Spread
    ) -> list[list[list[Example]]]:
        """Return each lane's micro-batches of a step; all lanes' together have the room of one."""
        count = len(self._lanes)
        if count == 1:
            return [spread.share(examples, room, own_cost)]
        # Of replay, which the anchors read as well, each has as much.
        dealt = sorted(examples, key=lambda each: (each.replayed, len(each.input_ids)))
        shares = [sorted(dealt[n::count], key=lambda e: len(e.input_ids)) for n in range(count)]
        return [group(share, max(1, room // count), own_cost * count) for share in shares]

    def run(
        self, work: Callable[[Lane, Sequence[Batch]], T], shares: Sequence[Sequence[Batch]]
    ) -> list[T]:
        """Do each lane's work, all at once; add up their gradients, always in the same order."""
        if len(self._lanes) == 1:
            return [work(self._lanes[0], shares[0])]
        threads = torch.get_num_threads()
        own = (threads // len(self._lanes),)
        try:
            with ThreadPoolExecutor(
                len(self._lanes), initializer=torch.set_num_threads, initargs=own
            ) as pool:
                found = list(pool.map(work, self._lanes, shares))
        finally:
            torch.set_num_threads(threads)  # any thread that comes later starts with the last set
        for weight, *twins in zip(*(lane.model.parameters() for lane in self._lanes), strict=True):
            for twin in twins:
                _move_gradient(twin, weight)
        return found


def make_lanes(model: Any, anchors: Anchors | None, spread: Spread) -> Lanes:
    """Make as many as pay: one where products are large, or cores, processes or chance forbid more.

    Chance: what dropout draws would depend on which thread is faster.
    """
    weights = list(model.parameters())
    cores = torch.get_num_threads() if weights[0].device.type == "cpu" and spread.size == 1 else 1
    small = sum(map(torch.numel, weights)) <= MOST_PARAMETERS
    count = min(cores, MOST_LANES) if small and not _drops(model) else 1
    return Lanes(model, anchors, count)


def _drops(model: Any) -> bool:
    rates = (rate for name, rate in model.config.to_dict().items() if "drop" in name)
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _alias(tensor: Tensor) -> Tensor:
    return torch.nn.Parameter(tensor.detach()) if tensor.requires_grad else tensor


def _move_gradient(source: Tensor, target: Tensor) -> None:
    if source is target or source.grad is None:
        return
    target.grad = source.grad if target.grad is None else target.grad.add_(source.grad)
    source.grad = None
