"""How far a model has moved from its parent: KL(parent || model) in nats a token on given texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from app.lm.loading import Bundle
from tasks.training.data import micro_batches
from tasks.training.job import Reference
from tasks.training.objectives.base import Batch, Example, look_at_targets
from tasks.training.objectives.causal import Causal
from tasks.training.objectives.diffusion import Diffusion

MOST_TEXTS = 128
MICRO_BATCH_TOKENS = 512  # a large vocabulary makes 300 MB of logits of these
# Nearly all of a model's mass; the rest counts as one outcome, which makes the figure a hair low.
LIKELIEST = 256
LEAST = 1e-9


@dataclass(frozen=True)
class Yardstick:
    """What the parent expected, token for token, of the texts that both models read."""

    texts: list[str]
    likeliest: Tensor  # [N, K] int64
    shares: Tensor  # [N, K + 1] float32, the last column is the rest; each row sums to 1


def texts_of(rows: Sequence[Reference]) -> list[str]:
    """Return the texts of a reference set's exam part, less those that are rehearsed, too.

    Where all of them are, all are read: that is little, but not nothing.
    """
    texts = [row.text or f"{row.question} {row.answers[0]}" for row in rows if row.part == "exam"]
    rehearsed = {row.text for row in rows if row.part == "replay"}
    return [text for text in texts if text not in rehearsed] or texts


def record(bundle: Bundle, texts: Sequence[str], likeliest: int = LIKELIEST) -> Yardstick | None:
    """Note what the parent expects; None without texts that fit its context."""
    room = bundle.manifest.context_length
    examples = _examples(bundle, texts)
    kept = [t for t, e in zip(texts, examples, strict=True) if 1 < len(e.input_ids) <= room]
    if not (kept := kept[:MOST_TEXTS]):
        return None
    found, shares = [], []
    for expected in _read(bundle, kept):
        top = expected.topk(min(likeliest, expected.shape[-1] - 1))
        found.append(top.indices)
        shares.append(_with_rest(top.values.exp()))
    return Yardstick(kept, torch.cat(found), torch.cat(shares))


def measure(bundle: Bundle, yardstick: Yardstick) -> float:
    """Return the mean over all tokens."""
    total, start = 0.0, 0
    for expected in _read(bundle, yardstick.texts):
        rows = slice(start, start := start + len(expected))
        theirs = _with_rest(expected.gather(1, yardstick.likeliest[rows]).exp())
        ours = yardstick.shares[rows]
        total += float((ours * (ours.log() - theirs.log())).sum())
    return total / start


def _with_rest(shares: Tensor) -> Tensor:
    rest = 1 - shares.sum(-1, keepdim=True)
    return torch.cat([shares, rest], -1).clamp(min=LEAST)


@torch.no_grad()
def _read(bundle: Bundle, texts: Sequence[str]) -> Iterator[Tensor]:
    """Yield log-probabilities at every predicted token of a batch of texts, on the CPU."""
    device = next(bundle.model.parameters()).device
    examples = _examples(bundle, texts)
    bundle.model.eval()
    batches: list[Batch] = micro_batches(examples, MICRO_BATCH_TOKENS, device)
    for batch in batches:
        yield look_at_targets(bundle.model, batch).logits.log_softmax(-1).cpu()


def _examples(bundle: Bundle, texts: Sequence[str]) -> list[Example]:
    """Make what is read of texts: all tokens in their order, or the half that is masked."""
    diffusion = bundle.manifest.architecture == "diffusion"
    objective = Diffusion(0.5, 0.5, 0.0) if diffusion else Causal()
    return objective.examples(texts, bundle, Random(0))
