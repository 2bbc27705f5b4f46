"""Attention for rows of different lengths that share one forward pass without padding.

The tokens of all rows lie one after the other in a single sequence, so that every other layer works
on exactly the tokens there are; only here does each see its own row's keys and values. Transformers
calls `_attend` in place of its own attention, in every class that supports other implementations.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_NAME = "almanac_packed"
_BLOCK = 64  # columns by which the cache grows, so that a step rarely copies it
_Masks = tuple[Tensor, Tensor | None]


class KeyValues:
    """Each layer's keys and values [rows, columns, heads, size]; a row's begin at column 0."""

    def __init__(self) -> None:
        self.rows = self.columns = 0
        self._layers: dict[int, list[Tensor]] = {}

    def fit(self, rows: int, columns: int) -> None:
        """Make room for so many rows and columns, and give back what is far too much."""
        columns = -(-columns // _BLOCK) * _BLOCK
        if rows <= self.rows and columns <= self.columns <= 4 * columns:
            return
        self.rows, self.columns = max(rows, self.rows), columns
        for held in self._layers.values():
            held[:] = [self._resized(part) for part in held]

    def _resized(self, part: Tensor) -> Tensor:
        rows, columns = min(part.shape[0], self.rows), min(part.shape[1], self.columns)
        fresh = part.new_zeros(self.rows, self.columns, *part.shape[2:])
        fresh[:rows, :columns] = part[:rows, :columns]
        return fresh

    def move(self, source: int, target: int) -> None:
        """Overwrite a row by another one."""
        for held in self._layers.values():
            for part in held:
                part[target] = part[source]

    def write(self, layer: int, places: Tensor, fresh: Sequence[Tensor]) -> list[Tensor]:
        """Store new keys and values [tokens, heads, size] at their places; return all there are."""
        if layer not in self._layers:
            # Zeros: what is masked still takes part in sums, so it must be finite.
            self._layers[layer] = [
                part.new_zeros(self.rows, self.columns, *part.shape[1:]) for part in fresh
            ]
        held = self._layers[layer]
        for part, new in zip(held, fresh, strict=True):
            part.flatten(0, 1).index_copy_(0, places, new)
        return held


class Step:
    """The tokens of one forward pass: one of each row that goes on, then whole new prompts.

    ``going`` says how many columns each such row fills, this token's included; ``new`` how long the
    prompts are. In this order rows lie in the cache.
    """

    def __init__(
        self, cache: KeyValues, going: Sequence[int], new: Sequence[int], device: torch.device
    ) -> None:
        self._cache = cache
        self._going, self._new = len(going), len(new)
        self._reach, self._width = max(going, default=0), max(new, default=0)
        cache.fit(len(going) + len(new), max(self._reach, self._width))
        places = [row * cache.columns + length - 1 for row, length in enumerate(going)]
        columns, ends = [length - 1 for length in going], [*range(len(going))]
        padded: list[int] = []
        for row, length in enumerate(new):
            start = (len(going) + row) * cache.columns
            places += range(start, start + length)
            padded += range(row * self._width, row * self._width + length)
            columns += range(length)
            ends.append(len(columns) - 1)
        self.positions = torch.tensor([columns], device=device)
        self.ends = torch.tensor(ends, device=device)  # each row's last token
        self._places = torch.tensor(places, device=device)
        self._padded = torch.tensor(padded, dtype=torch.long, device=device)
        self._masks: dict[int | None, _Masks] = {}

    def attend(
        self, module: Any, parts: Sequence[Tensor], window: int | None, scale: float
    ) -> Tensor:
        """Return what each token sees [tokens, heads, size], given query, key and value alike."""
        query, *fresh = parts
        held = self._cache.write(module.layer_idx, self._places, fresh)
        masks = self._masks_of(window)
        going, new = query[: self._going], query[self._going :]
        seen = []
        if self._going:
            rows = [part[: self._going, : self._reach] for part in held]
            seen.append(_look(module, going[:, None], rows, masks[0], scale)[:, 0])
        if self._new:
            rows = [part[self._going : self._going + self._new, : self._width] for part in held]
            padded = new.new_zeros(self._new * self._width, *new.shape[1:])
            padded[self._padded] = new
            padded = padded.unflatten(0, (self._new, self._width))
            seen.append(_look(module, padded, rows, masks[1], scale).flatten(0, 1)[self._padded])
        return seen[0] if len(seen) == 1 else torch.cat(seen)

    def _masks_of(self, window: int | None) -> _Masks:
        """Return what rows that go on see, and what new ones do; None: all that came before."""
        if window not in self._masks:
            device = self.positions.device
            ends = self.positions[0, : self._going, None, None, None]  # [rows, heads, 1, columns]
            going = _visible(ends, torch.arange(self._reach, device=device), window)
            new = None
            if window is not None and self._width > window:
                columns = torch.arange(self._width, device=device)
                new = _visible(columns[:, None], columns, window)[None, None]
            self._masks[window] = going, new
        return self._masks[window]


class Whole:
    """The tokens of one forward pass over whole sequences, each seen both ways; nothing is kept."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._rows, self._width = len(lengths), max(lengths)
        columns = torch.arange(self._width, device=device)
        seen = columns < torch.tensor(lengths, device=device)[:, None]
        self.positions = columns.expand(self._rows, -1)[seen][None]
        self._padded = seen.flatten().nonzero()[:, 0]
        self._mask = seen[:, None, None]  # [rows, heads, tokens, columns]

    def attend(
        self, module: Any, parts: Sequence[Tensor], window: int | None, scale: float
    ) -> Tensor:
        """Return what each token sees [tokens, heads, size], given query, key and value alike."""
        del window  # conversion refuses it
        rows = []
        for part in parts:
            padded = part.new_zeros(self._rows * self._width, *part.shape[1:])
            padded[self._padded] = part
            rows.append(padded.unflatten(0, (self._rows, self._width)))
        query, *held = rows
        return _look(module, query, held, self._mask, scale).flatten(0, 1)[self._padded]


def _visible(at: Tensor, columns: Tensor, window: int | None) -> Tensor:
    seen = columns <= at
    return seen if window is None else seen & (columns > at - window)


def _look(
    module: torch.nn.Module,
    query: Tensor,
    held: Sequence[Tensor],
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Return [rows, tokens, heads, size], from queries, keys and values of the same shape."""
    states = [part.transpose(1, 2) for part in (query, *held)]
    seen, _ = sdpa_attention_forward(module, *states, mask, scaling=scale, is_causal=True)
    return seen


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    step: Step | Whole,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    del attention_mask, others
    parts = [part[0].transpose(0, 1) for part in (query, key, value)]
    return step.attend(module, parts, sliding_window, scaling)[None], None


AttentionInterface.register(_NAME, _attend)


def can_pack(model: Any) -> bool:
    """Say whether a model's class leaves its attention, the usual one, to others."""
    return model._supports_attention_backend and model.config._attn_implementation == "sdpa"


@contextmanager
def packed(model: Any) -> Iterator[None]:
    """Have a model attend as its `step` argument says, whatever it does otherwise."""
    config = model.config
    usual = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = usual
