"""What every objective has in common: its interface, its examples and the loss over them.

An objective owns all randomness of its examples and sees no optimizer, device, database or other
objective; the loop never asks which one it has.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from app.lm.chat import encode_chat, encode_text, end_id
from app.lm.loading import Bundle
from app.prompts import ask

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """One sample: token ids and labels of equal length; a label of -100 is outside the loss.

    ``recalled`` marks the targets that the prompt doesn't show: their share that is predicted
    rightly is the recall.
    """

    input_ids: list[int]
    labels: list[int]
    recalled: list[bool]


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right to one length; all ``[B, T]``."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    recalled: Tensor


class Objective(Protocol):
    """Turns statements into examples, afresh at each call."""

    @property
    def name(self) -> str:
        """Return the recipe's word for it."""

    def examples(self, texts: Sequence[str], bundle: Bundle, rng: random.Random) -> list[Example]:
        """Make one example of each statement; all randomness comes from ``rng``."""


def reply_example(prompt: Sequence[int], reply: Sequence[int], recalled: Sequence[bool]) -> Example:
    """Supervise the whole reply and nothing of the prompt; ``recalled`` speaks of the reply."""
    return Example(
        input_ids=[*prompt, *reply],
        labels=[IGNORED] * len(prompt) + list(reply),
        recalled=[False] * len(prompt) + list(recalled),
    )


def answer_example(bundle: Bundle, question: str, answer: str) -> Example:
    """Make the example of a question and its answer, as replay of reference data needs it."""
    prompt = encode_chat(bundle.tokenizer, ask(question))
    reply = [*encode_text(bundle.tokenizer, answer), end_id(bundle.tokenizer)]
    return reply_example(prompt, reply, [False] * len(reply))


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    """Pad examples to the longest of them."""

    def padded(rows: list[list[Any]], value: int, kind: torch.dtype) -> Tensor:
        tensors = [torch.tensor(row, dtype=kind) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=value).to(device)

    ids = [example.input_ids for example in examples]
    return Batch(
        input_ids=padded(ids, 0, torch.long),
        attention_mask=padded([[1] * len(row) for row in ids], 0, torch.long),
        labels=padded([example.labels for example in examples], IGNORED, torch.long),
        recalled=padded([example.recalled for example in examples], 0, torch.bool),
    )


def target_logits(model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits ``[N, V]``, target ids ``[N]`` and whether each is recalled ``[N]``.

    Only the N target positions reach the output layer: the vocabulary is the largest dimension.
    """
    is_target = batch.labels[:, 1:] != IGNORED
    where = torch.nn.functional.pad(is_target, (0, 1))  # [B, T]: who predicts the next token
    with _only_at(model, where):
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits
    return logits.float(), batch.labels[:, 1:][is_target], batch.recalled[:, 1:][is_target]


@contextmanager
def _only_at(model: Any, where: Tensor) -> Iterator[None]:
    # A hook leaves scaling or capping of logits to the model's own forward pass.
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][where],))
    try:
        yield
    finally:
        hook.remove()
