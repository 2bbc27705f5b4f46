"""Packs samples into rows; each sample attends only to itself and starts at position 0."""

from collections.abc import Callable

import torch
from torch import Tensor

from tasks.starter.samples import Sample

WIDTH = 256
STEP = 512
# What a target of each task weighs. An answer is a few tokens and a demasked text is many, mostly
# copied; without weights the answers would hardly count. One that was never asked before counts
# most: it alone shows whether what was only stated is found by a question.
WEIGHTS = {
    "plain": 1.0,
    "demask": 1.0,
    "copy": 1.0,
    "infill": 4.0,
    "warm_forward": 4.0,
    "warm_backward": 4.0,
    "permanent": 4.0,
    "write": 4.0,
    "sum": 4.0,
    "overlay": 8.0,
    "cold_forward": 10.0,
    "cold_backward": 10.0,
}
TASKS = {task: number for number, task in enumerate(WEIGHTS)}


class Packer:
    """Fills rows from a pool of waiting samples, the longest that fits first."""

    def __init__(self, draw: Callable[[], Sample], rows: int, pool: int = 96) -> None:
        self.draw, self.rows, self.pool = draw, rows, pool
        self.waiting: list[Sample] = []

    def batch(self) -> Tensor:
        """Return the next `rows` rows, laid out."""
        return lay_out([self._row() for _ in range(self.rows)])

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


def lay_out(rows: list[list[Sample]]) -> Tensor:
    """Return int32 [5, rows, WIDTH]: ids, positions, owners, labels and tasks of every place.

    An owner is a sample's number within its row, or -1 where there is none; a label is what the
    place is to predict, or -1.
    """
    laid = torch.zeros(5, len(rows), WIDTH, dtype=torch.int32)
    laid[2:4] = -1
    for y, row in enumerate(rows):
        ids: list[int] = []
        positions: list[int] = []
        owners: list[int] = []
        labels: list[int] = []
        tasks: list[int] = []
        for number, sample in enumerate(row):
            size = len(sample.ids)
            predicted = dict(zip(sample.at, sample.labels, strict=True))
            ids += sample.ids
            positions += range(size)
            owners += [number] * size
            labels += [predicted.get(place, -1) for place in range(size)]
            tasks += [TASKS[sample.task]] * size
        fields = [ids, positions, owners, labels, tasks]
        laid[:, y, : len(ids)] = torch.tensor(fields, dtype=torch.int32)
    return laid


def find_targets(labels: Tensor) -> Tensor:
    """Return the flat places [steps, N] of the targets among labels [steps, rows, WIDTH].

    Few sizes mean few compilations, so N is a multiple of STEP; what is added predicts nothing.
    """
    wanted = labels.flatten(1) >= 0
    most = int(wanted.sum(1).max())
    return wanted.int().argsort(dim=1, descending=True, stable=True)[:, : most + -most % STEP]
