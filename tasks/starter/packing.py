"""Packs samples into rows; each sample attends only to itself and starts at position 0."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.starter.samples import Sample

WIDTH = 256
STEP = 512
# An answer is a few tokens and a demasked text is many, mostly copied; without weights the answers
# would hardly count. One that was never asked before counts most: it alone shows whether what was
# only stated is found by a question.
WEIGHTS = {
    "demask": 1.0,
    "copy": 1.0,
    "plain": 1.0,
    "cold_forward": 10.0,
    "cold_backward": 10.0,
    "overlay": 8.0,
}
ANSWER_WEIGHT = 4.0


@dataclass
class Batch:
    """Rows [B, T] of ids and positions, their mask [B, 1, T, T], and flat targets [N]."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    at: Tensor
    labels: Tensor
    weights: Tensor
    tasks: dict[str, list[int]]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Return what the forward pass takes, in its order."""
        return self.ids, self.positions, self.mask, self.at, self.labels

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on a device."""
        ids, positions, mask, at, labels = (tensor.to(device) for tensor in self.inputs)
        weights = self.weights.to(device)
        return Batch(ids, positions, mask, at, labels, weights, self.tasks)


class Packer:
    """Fills rows from a pool of waiting samples, the longest that fits first."""

    def __init__(
        self, draw: Callable[[], Sample], rows: int, *, causal: bool = True, pool: int = 96
    ) -> None:
        self.draw, self.rows, self.causal, self.pool = draw, rows, causal, pool
        self.waiting: list[Sample] = []

    def batch(self) -> Batch:
        """Return the next batch of `rows` rows."""
        return collate([self._row() for _ in range(self.rows)], causal=self.causal)

    def _row(self) -> list[Sample]:
        row: list[Sample] = []
        room = WIDTH
        while True:
            while len(self.waiting) < self.pool:
                sample = self.draw()
                if len(sample.ids) <= WIDTH:
                    self.waiting.append(sample)
            # The oldest goes first, so that long samples aren't put off for ever.
            fits = [i for i, s in enumerate(self.waiting) if len(s.ids) <= room]
            if not fits:
                return row
            index = fits[0] if not row else max(fits, key=lambda i: len(self.waiting[i].ids))
            row.append(self.waiting.pop(index))
            room -= len(row[-1].ids)


def collate(rows: list[list[Sample]], *, causal: bool) -> Batch:
    """Lay samples out in rows of WIDTH tokens with their block-diagonal mask."""
    shape = (len(rows), WIDTH)
    ids, positions = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    owner = torch.full(shape, -1)
    at: list[int] = []
    labels: list[int] = []
    weights: list[float] = []
    tasks: dict[str, list[int]] = defaultdict(list)
    for y, row in enumerate(rows):
        x = 0
        for number, sample in enumerate(row):
            size, count = len(sample.ids), len(sample.labels)
            ids[y, x : x + size] = torch.tensor(sample.ids)
            positions[y, x : x + size] = torch.arange(size)
            owner[y, x : x + size] = number
            tasks[sample.task] += range(len(at), len(at) + count)
            at += [y * WIDTH + x + place for place in sample.at]
            labels += sample.labels
            weights += [WEIGHTS.get(sample.task, ANSWER_WEIGHT)] * count
            x += size
    mask = owner[:, None, :, None] == owner[:, None, None, :]
    mask = mask.tril() if causal else mask
    # Few shapes mean few compilations; what is added weighs nothing.
    spare = -len(at) % STEP
    at, labels, weights = at + [0] * spare, labels + [0] * spare, weights + [0.0] * spare
    flat = (torch.tensor(at), torch.tensor(labels), torch.tensor(weights))
    return Batch(ids, positions, mask, *flat, tasks)
