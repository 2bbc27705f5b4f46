"""Batched generation with a key-value cache: rows join and leave between steps.

Rows are padded on the left, so all of them write the cache's next column. The trainer's proofs and
the engine's scheduler drive the same ``Batch``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from app.errors import Invalid
from app.lm.loading import Bundle

MAX_ROWS = 64
_SLACK = 64  # columns by which a cache grows, so that a step rarely copies it


@dataclass(eq=False)
class Row:
    """One prompt and its growing answer."""

    prompt: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    tokens: list[int] = field(default_factory=list)
    finish: Literal["stop", "length", "cancelled"] | None = None
    generator: torch.Generator | None = None


def generate(bundle: Bundle, prompts: Sequence[Sequence[int]], max_tokens: int) -> list[str]:
    """Answer prompts (token ids) greedily; return stripped texts in the prompts' order.

    An answer ends at a stop token, after ``max_tokens``, or where the context is full. ``Invalid``
    names a prompt that leaves no room. The model's training mode is kept.
    """
    room = bundle.manifest.context_length
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) < room:
            raise Invalid(f"Prompt {index} has {len(prompt)} tokens; the context holds {room}.")
    rows = [Row(prompt, min(max_tokens, room - len(prompt))) for prompt in prompts]
    waiting = sorted(rows, key=lambda row: len(row.prompt))  # alike lengths need little padding
    training = bundle.model.training
    bundle.model.eval()
    try:
        _run(Batch(bundle), waiting)
    finally:
        bundle.model.train(training)
    return [decode(bundle, row.tokens) for row in rows]


def _run(batch: "Batch", waiting: list[Row]) -> None:
    while waiting or batch.rows:
        if waiting and len(batch.rows) <= MAX_ROWS // 2:
            count = MAX_ROWS - len(batch.rows)
            batch.join(waiting[-count:])
            del waiting[-count:]
        else:
            batch.step()
        batch.sweep()


def decode(bundle: Bundle, tokens: Sequence[int]) -> str:
    """Turn an answer's tokens into stripped text without special tokens."""
    text: str = bundle.tokenizer.decode(tokens, skip_special_tokens=True)
    return text.strip()


class Batch:
    """Rows of one model that decode together."""

    def __init__(self, bundle: Bundle) -> None:
        self.rows: list[Row] = []
        self._model = bundle.model
        self._stop_ids = bundle.stop_ids
        self._device = next(bundle.model.parameters()).device
        self._cache = _new_cache()
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=self._device)  # [rows, columns]

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows and give each its first token."""
        width = max(len(row.prompt) for row in rows)
        padding = [width - len(row.prompt) for row in rows]
        ids = torch.tensor(
            [[0] * pad + [*row.prompt] for pad, row in zip(padding, rows, strict=True)]
        )
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
        cache, mask = _new_cache(), mask.to(self._device)
        logits = self._forward(ids.to(self._device), mask, cache)
        if self.rows:
            wide = max(width, self._mask.shape[1])
            for old, new in zip(self._cache.layers, cache.layers, strict=True):
                old.merge(new, wide)
            mask = torch.cat([_pad_left(self._mask, wide), _pad_left(mask, wide)])
        else:
            self._cache = cache
        self._mask = mask
        self.rows = [*self.rows, *rows]
        self._append(rows, logits)

    @torch.inference_mode()
    def step(self) -> None:
        """Give every row its next token."""
        ids = torch.tensor([[row.tokens[-1]] for row in self.rows], device=self._device)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        self._append(self.rows, self._forward(ids, self._mask, self._cache))

    @torch.inference_mode()
    def sweep(self) -> None:
        """Drop the rows that are finished, and columns that nobody needs any more."""
        keep = [index for index, row in enumerate(self.rows) if row.finish is None]
        if len(keep) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in keep]
        if not keep:
            self._cache = _new_cache()
            return
        index = torch.tensor(keep, device=self._device)
        mask = self._mask[index]
        first = int(mask.any(dim=0).int().argmax())
        self._mask = mask[:, first:]
        for layer in self._cache.layers:
            layer.keep(index, first)

    def _forward(self, ids: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """Return the logits [rows, vocabulary] after each row's last token."""
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _append(self, rows: Sequence[Row], logits: Tensor) -> None:
        chosen = logits.argmax(dim=-1).tolist()
        for index, row in enumerate(rows):
            token = _sample(row, logits[index]) if row.temperature > 0 else chosen[index]
            if token in self._stop_ids:
                row.finish = "stop"
            else:
                row.tokens.append(token)
                if len(row.tokens) >= row.max_tokens:
                    row.finish = "length"


class _Layer(DynamicLayer):
    """One layer's keys and values [rows, heads, columns, head size], with room to grow in place."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states[..., :0, :], value_states[..., :0, :]
        self._store = [self.keys, self.values]

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        del args, kwargs
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if end > self._store[0].shape[2]:
            self._hold(self.keys, self.values, end + _SLACK)
        for held, fresh in zip(self._store, (key_states, value_states), strict=True):
            held[:, :, start:end] = fresh
        self.keys, self.values = (held[:, :, :end] for held in self._store)
        return self.keys, self.values

    def merge(self, other: "_Layer", columns: int) -> None:
        """Take in another layer's rows; both are padded on the left to so many columns."""
        pairs = ((self.keys, other.keys), (self.values, other.values))
        keys, values = (torch.cat([_pad_columns(part, columns) for part in pair]) for pair in pairs)
        self._hold(keys, values, columns + _SLACK)

    def keep(self, index: Tensor, first: int) -> None:
        """Keep only these rows, and the columns from ``first`` on."""
        self._hold(self.keys[index, :, first:], self.values[index, :, first:])

    def _hold(self, keys: Tensor, values: Tensor, capacity: int = 0) -> None:
        self._store = [
            torch.nn.functional.pad(part, (0, 0, 0, max(0, capacity - part.shape[2])))
            for part in (keys, values)
        ]
        self.keys, self.values = (held[:, :, : keys.shape[2]] for held in self._store)


def _new_cache() -> Cache:
    return Cache(layer_class_to_replicate=_Layer)


def _pad_left(mask: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(mask, (columns - mask.shape[1], 0))


def _pad_columns(part: Tensor, columns: int) -> Tensor:
    return torch.nn.functional.pad(part, (0, 0, columns - part.shape[2], 0))


def _sample(row: Row, logits: Tensor) -> int:
    """Draw from the nucleus ``top_p`` at the row's temperature; the seed alone decides."""
    if row.generator is None:
        row.generator = torch.Generator()
        row.generator.manual_seed(row.seed) if row.seed is not None else row.generator.seed()
    shares, order = torch.softmax(logits.float().cpu() / row.temperature, dim=-1).sort(
        descending=True
    )
    shares[shares.cumsum(dim=0) - shares >= row.top_p] = 0.0
    return int(order[torch.multinomial(shares, 1, generator=row.generator)])
