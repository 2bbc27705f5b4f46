"""Batched generation: rows join and leave between steps.

A causal model's step reads the prompts of new rows together with the others' last tokens, over a
key-value cache. The trainer's proofs and the engine's scheduler drive the same batches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from app.errors import Invalid
from app.lm.attention import KeyValues, Step, packed
from app.lm.diffusion import DiffusionBatch
from app.lm.loading import Bundle
from app.lm.rows import Row

MAX_ROWS = 64
JOIN_TOKENS = 4096  # prompt tokens read in one go while others wait for their next token
# Rows by the longest one's tokens, beyond which none joins: each of a batch keeps keys and values
# for as many.
MOST_KEPT = 2**17
# Parameters times tokens up to which a step on one core is faster than on two (decision 45).
ONE_CORE_WORK = 5e8


def generate(
    bundle: Bundle,
    prompts: Sequence[Sequence[int]],
    max_tokens: int | Sequence[int],
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Answer prompts (token ids); return stripped texts in the prompts' order.

    Greedily, or at a temperature: then ``seed`` and its place are a prompt's own seed. An answer
    ends at a stop token, after ``max_tokens`` (of all, or one for each), or where the context is
    full. ``Invalid`` names a prompt that leaves no room. The model's training mode is kept.
    """
    room = bundle.manifest.context_length
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) < room:
            raise Invalid(f"Prompt {index} has {len(prompt)} tokens; the context holds {room}.")
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else max_tokens
    rows = [
        Row(prompt, min(most, room - len(prompt)), temperature, seed=seed + place)
        for place, (prompt, most) in enumerate(zip(prompts, limits, strict=True))
    ]
    waiting = sorted(rows, key=lambda row: len(row.prompt))  # alike lengths need little padding
    training = bundle.model.training
    bundle.model.eval()
    try:
        _run(start_batch(bundle), waiting)
    finally:
        bundle.model.train(training)
    return [decode(bundle, row.tokens) for row in rows]


def start_batch(bundle: Bundle) -> "Batch | DiffusionBatch":
    """Make the batch that the model's manifest asks for."""
    return DiffusionBatch(bundle) if bundle.manifest.architecture == "diffusion" else Batch(bundle)


def _run(batch: "Batch | DiffusionBatch", waiting: list[Row]) -> None:
    while waiting or batch.rows:
        batch.step(_take(batch.rows, waiting))
        batch.sweep()


def _take(running: Sequence[Row], waiting: list[Row]) -> list[Row]:
    """Take those that join next out of the waiting ones; return them."""
    rows: list[Row] = []
    tokens = JOIN_TOKENS
    while waiting and len(running) + len(rows) < MAX_ROWS and tokens > 0:
        if not fits([*running, *rows], waiting[0]):
            break
        tokens -= len(waiting[0].prompt)
        rows.append(waiting.pop(0))
    return rows


def fits(rows: Sequence[Row], row: Row) -> bool:
    """Say whether memory lasts for one more row; one alone always fits."""
    longest = max(other.size for other in (*rows, row))
    return not rows or (len(rows) + 1) * longest <= MOST_KEPT


def decode(bundle: Bundle, tokens: Sequence[int]) -> str:
    """Turn an answer's tokens into stripped text without special tokens."""
    text: str = bundle.tokenizer.decode(tokens, skip_special_tokens=True)
    return text.strip()


@contextmanager
def few_threads(work: float, device: torch.device) -> Iterator[None]:
    """Run on one core what is too little to be shared: its threads would mostly wait."""
    threads = torch.get_num_threads()
    if device.type == "cpu" and work <= ONE_CORE_WORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Batch:
    """Rows of one model that decode together."""

    def __init__(self, bundle: Bundle) -> None:
        self.rows: list[Row] = []  # in the order in which they lie in the cache
        self._model = bundle.model
        self._stop_ids = bundle.stop_ids
        self._parameters = bundle.manifest.parameters
        self._device = next(bundle.model.parameters()).device
        self._cache = KeyValues()

    @torch.inference_mode()
    def step(self, joining: Sequence[Row] = ()) -> None:
        """Give every row its next token, and those that join, after their prompts, the first."""
        rows = [*self.rows, *joining]
        going = [len(row.prompt) + len(row.tokens) for row in self.rows]
        step = Step(self._cache, going, [len(row.prompt) for row in joining], self._device)
        ids = [row.tokens[-1] for row in self.rows]
        for row in joining:
            ids += row.prompt
        with packed(self._model), few_threads(self._parameters * len(ids), self._device):
            output = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                position_ids=step.positions,
                use_cache=False,
                logits_to_keep=step.ends,
                step=step,
            )
        self.rows = rows
        self._append(output.logits[0])

    @torch.inference_mode()
    def sweep(self) -> None:
        """Drop the rows that are finished."""
        for at in reversed(range(len(self.rows))):
            if self.rows[at].finish is not None:
                last = self.rows.pop()
                if at < len(self.rows):
                    self.rows[at] = last
                    self._cache.move(len(self.rows), at)
        if not self.rows:
            self._cache = KeyValues()

    def _append(self, logits: Tensor) -> None:
        chosen = logits.argmax(dim=-1).tolist()
        for index, row in enumerate(self.rows):
            token = row.sample(logits[index]) if row.temperature > 0 else chosen[index]
            row.append(token, self._stop_ids)
