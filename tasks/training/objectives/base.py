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
# On a CPU fused attention trains short texts slowly: in bfloat16, at 55 tokens, 8 times.
SHORT_TOKENS = 256


@dataclass(frozen=True)
class Example:
    """One sample: token ids and labels of equal length; a label of -100 is outside the loss.

    A label is the token that belongs at its place. ``recalled`` marks the targets that the prompt
    doesn't show: their share that is predicted rightly is the recall. ``replayed`` says that it is
    no new fact's, ``of_base`` that the base model knew it. Each target counts ``weight`` times in
    the loss.
    """

    input_ids: list[int]
    labels: list[int]
    recalled: list[bool]
    replayed: bool = False
    of_base: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right to one length; ``[B, T]``, the last three ``[B]``."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    recalled: Tensor
    replayed: Tensor
    of_base: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Targets:
    """What a model says at the N positions that have a label."""

    logits: Tensor  # [N, V] float32
    wanted: Tensor  # [N] int64
    recalled: Tensor  # [N] bool: the prompt doesn't show it, and it is a new fact's
    weights: Tensor  # [N] float32


class Objective(Protocol):
    """Turns statements into examples, afresh at each call."""

    @property
    def name(self) -> str:
        """Return the recipe's word for it."""

    def examples(self, texts: Sequence[str], bundle: Bundle, rng: random.Random) -> list[Example]:
        """Make one example of each statement; all randomness comes from ``rng``."""

    def responses(
        self, pairs: Sequence[tuple[str, str]], bundle: Bundle, rng: random.Random
    ) -> list[Example]:
        """Make one example of each prompt with its response (SFT); ``rng`` as above."""

    def answers(
        self, pairs: Sequence[tuple[str, str]], bundle: Bundle, rng: random.Random
    ) -> list[Example]:
        """Make one example of each question with its answer, as the model is asked; for replay."""


def reply_example(prompt: Sequence[int], reply: Sequence[int], recalled: Sequence[bool]) -> Example:
    """Supervise the whole reply and nothing of the prompt; ``recalled`` speaks of the reply."""
    return Example(
        input_ids=[*prompt, *reply],
        labels=[IGNORED] * len(prompt) + list(reply),
        recalled=[False] * len(prompt) + list(recalled),
    )


def answer_example(
    bundle: Bundle, question: str, answer: str, *, recalled: bool = False
) -> Example:
    """Make the example of a question and its answer: replayed reference data, or plain SFT."""
    prompt = encode_chat(bundle.tokenizer, ask(question))
    reply = [*encode_text(bundle.tokenizer, answer), end_id(bundle.tokenizer)]
    return reply_example(prompt, reply, [recalled] * len(reply))


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
        replayed=torch.tensor([example.replayed for example in examples], device=device),
        of_base=torch.tensor([example.of_base for example in examples], device=device),
        weights=torch.tensor([example.weight for example in examples], device=device),
    )


def lead_of(model: Any) -> int:
    """Return how many places before a token it is predicted: 1, or 0 by a model that sees it."""
    return int(getattr(model.config, "is_causal", True))


def targets_of(batch: Batch, lead: int) -> Tensor:
    """Say which labels are targets, bool [B, T - lead]: a first token has nothing before it."""
    return batch.labels[:, lead:] != IGNORED


def look_at_targets(model: Any, batch: Batch) -> Targets:
    """Run the model over a batch; only the targets reach its output layer.

    The vocabulary is the largest dimension: most of a prompt's logits would never be looked at.
    """
    lead = lead_of(model)
    is_target = targets_of(batch, lead)
    where = torch.nn.functional.pad(is_target, (0, lead))  # [B, T]: who predicts
    with _only_at(model, where), _fast_attention(model, batch.input_ids):
        logits = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits
    replayed = batch.replayed[:, None].expand_as(is_target)
    return Targets(
        logits=logits.float(),
        wanted=batch.labels[:, lead:][is_target],
        recalled=(batch.recalled[:, lead:] & ~replayed)[is_target],
        weights=batch.weights[:, None].expand_as(is_target)[is_target],
    )


@contextmanager
def _only_at(model: Any, where: Tensor) -> Iterator[None]:
    # A hook leaves scaling or capping of logits to the model's own forward pass.
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][where],))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _fast_attention(model: Any, ids: Tensor) -> Iterator[None]:
    """Have a CPU attend by plain products where texts are short; other kinds stay as they are."""
    config, usual = model.config, model.config._attn_implementation
    short = not ids.is_cuda and ids.shape[1] <= SHORT_TOKENS
    # What is recomputed in the backward pass finds the usual kind again: it must have begun so.
    if usual == "sdpa" and short and not model.is_activation_checkpointing:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = usual
