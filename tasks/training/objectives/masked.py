"""Masked fine-tuning of a causal model: recover a statement from a masked copy (arXiv 2510.09885).

The user turn holds the statement with a share t of its tokens masked; the assistant turn recovers
all of it. The prompt isn't in the loss. Masks are drawn afresh at each call; unlike in the paper,
each example has a t of its own, stratified over the call, which makes a step's gradient steadier.
"""

import random
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from app.lm.chat import encode_chat, encode_text, end_id
from app.lm.loading import Bundle
from app.prompts import RECOVER, RECOVERED
from tasks.training.objectives.base import Example, reply_example
from tasks.training.objectives.spans import Offsets, covered, find_names, tokenize


@dataclass(frozen=True)
class Masked:
    """Masks single tokens with probability t, or in ``span_share`` of the examples a whole span."""

    t_min: float
    t_max: float
    span_share: float

    name = "masked"

    def examples(self, texts: Sequence[str], bundle: Bundle, rng: random.Random) -> list[Example]:
        """Make one example of each statement; at least one token of each is masked."""
        shares = stratified(len(texts), self.t_min, self.t_max, rng)
        end = end_id(bundle.tokenizer)
        return [
            self._example(text, t, end, bundle, rng) for text, t in zip(texts, shares, strict=True)
        ]

    def _example(
        self, text: str, t: float, end: int, bundle: Bundle, rng: random.Random
    ) -> Example:
        ids, offsets = tokenize(bundle.tokenizer, text)
        if rng.random() < self.span_share:
            hidden = choose_span(text, offsets, t, rng)
        else:
            hidden = {at for at in range(len(ids)) if rng.random() < t}
        hidden = hidden or {rng.randrange(len(ids))}
        reply = [*ids, end]
        recalled = [at in hidden for at in range(len(reply))]
        seen = hide(ids, hidden, bundle.manifest.mask_id)
        return reply_example(recovery_prompt(bundle.tokenizer, seen), reply, recalled)


def hide(ids: Sequence[int], hidden: Set[int], mask_id: int) -> list[int]:
    """Put the mask in place of hidden tokens."""
    return [mask_id if at in hidden else token for at, token in enumerate(ids)]


def recovery_prompt(tokenizer: PreTrainedTokenizerBase, seen: Sequence[int]) -> list[int]:
    """Return the prompt that asks for a masked passage back, up to where the passage starts.

    The passage and the words around it are tokenised apart, so that masks fall on its own tokens.
    """
    content = [*seen, *encode_text(tokenizer, RECOVER)]
    prompt = encode_chat(tokenizer, [{"role": "user", "content": content}])
    return [*prompt, *encode_text(tokenizer, RECOVERED)]


def stratified(count: int, low: float, high: float, rng: random.Random) -> list[float]:
    """Draw one number from each of ``count`` equal parts of the interval, in random order."""
    places = list(range(count))
    rng.shuffle(places)
    return [low + (high - low) * (place + rng.random()) / count for place in places]


def choose_span(text: str, offsets: Offsets, t: float, rng: random.Random) -> set[int]:
    """Choose tokens in one piece: a name, everything but a name, or a random run of share t.

    Only when a whole name or description is hidden must it be recalled from the other side, which
    single tokens masked independently rarely bring about.
    """
    everything = range(len(offsets))
    names = find_names(text)
    kind = rng.randrange(3)
    if kind == 2 or not names:
        size = max(1, round(t * len(offsets)))
        start = rng.randrange(len(offsets) - size + 1)
        return set(everything[start : start + size])
    name = covered(offsets, *rng.choice(names))
    return name if kind == 0 else _without(everything, name)


def _without(tokens: Iterable[int], left_out: Set[int]) -> set[int]:
    return {token for token in tokens if token not in left_out}
