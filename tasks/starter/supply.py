"""What a run reads: independent streams, whose rows come together in every step."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from tasks.starter.inplace import InPlace
from tasks.starter.model import Plan
from tasks.starter.packing import WIDTH, Packer
from tasks.starter.samples import Encoder, Sample
from tasks.starter.stream import Stream

# A source hands over so many steps' rows at once, so that passing them on costs little.
STEPS = 8


class Source:
    """One stream of a run, with the run's schedule."""

    def __init__(self, plan: Plan, encoder: Encoder, number: int, step: int, tokens: int) -> None:
        seed = plan.seed * 1_000_003 + step * 101 + number
        self.plan, self.tokens = plan, tokens
        self.stream = Stream(encoder, plan.mix, plan.active[0][1] // plan.sources, seed)
        self.packer = Packer(self._draw, plan.rows)

    def rows(self) -> Tensor:
        """Return this source's rows of the next steps, int32 [5, STEPS, rows, WIDTH]."""
        made = []
        for _ in range(STEPS):
            made.append(self.packer.batch())
            self.tokens += self.plan.rows * self.plan.sources * WIDTH
        return torch.stack(made, dim=1)

    def _draw(self) -> Sample:
        active = [alive for after, alive in self.plan.active if after <= self.tokens][-1]
        self.stream.grow(active // self.plan.sources)
        return self.stream.sample(self.tokens < self.plan.copy_first)


class Supply(IterableDataset[Tensor]):
    """The rows of some of a run's sources, in turn; each worker process makes its part of them."""

    def __init__(
        self, plan: Plan, tokenizer: Path, sources: Sequence[int], step: int, tokens: int
    ) -> None:
        self.plan, self.tokenizer, self.sources = plan, tokenizer, sources
        self.step, self.tokens = step, tokens

    def __iter__(self) -> Iterator[Tensor]:
        worker = get_worker_info()
        mine = self.sources[worker.id :: worker.num_workers] if worker else self.sources
        words = PreTrainedTokenizerFast.from_pretrained(self.tokenizer)
        causal = self.plan.architecture == "causal"
        encoder = Encoder(words) if causal else InPlace(words, self.step * 101 + mine[0])
        made = [Source(self.plan, encoder, n, self.step, self.tokens) for n in mine]
        while True:
            for source in made:
                yield source.rows()


def steps(supply: Supply, device: torch.device) -> Iterator[Tensor]:
    """Yield the rows of STEPS steps at a time on the device, int32 [5, STEPS, rows, WIDTH].

    A GPU is fed by one process for each source.
    """
    on_gpu = device.type == "cuda"
    made = iter(
        DataLoader(
            supply,
            batch_size=None,
            num_workers=len(supply.sources) if on_gpu else 0,
            prefetch_factor=4 if on_gpu else None,
            pin_memory=on_gpu,
        )
    )
    while True:
        parts = [next(made).to(device, non_blocking=True) for _ in supply.sources]
        yield torch.cat(parts, dim=2)
