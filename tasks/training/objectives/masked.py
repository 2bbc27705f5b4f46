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
from app.prompts import INFILL, RECOVER, RECOVERED
from tasks.training.objectives.base import Example, answer_example, reply_example
from tasks.training.objectives.spans import (
    Offsets,
    choose_cut,
    covered,
    find_names,
    find_words,
    halves,
    tokenize,
    word_starts,
)

# Half of a statement, masked, is an exam (a cloze): other masks are drawn, where there are others.
DRAWS = 8


@dataclass(frozen=True)
class Masked:
    """Masks single tokens with probability t, or in ``span_share`` of the examples a whole span.

    ``infill_share`` of the examples leave out one span and ask for it alone; in ``cut_share`` of
    these a part of the rest isn't shown either.
    """

    t_min: float
    t_max: float
    span_share: float
    infill_share: float = 0.0
    cut_share: float = 0.0

    name = "masked"

    def examples(self, texts: Sequence[str], bundle: Bundle, rng: random.Random) -> list[Example]:
        """Make one example of each statement; at least one token of each is masked."""
        shares = stratified(len(texts), self.t_min, self.t_max, rng)
        end = end_id(bundle.tokenizer)
        return [
            self._example(text, t, end, bundle, rng) for text, t in zip(texts, shares, strict=True)
        ]

    def responses(
        self, pairs: Sequence[tuple[str, str]], bundle: Bundle, rng: random.Random
    ) -> list[Example]:
        """Make a demasking SFT example of each prompt with its response.

        The prompt is followed by the masked response, which the reply recovers. In
        ``infill_share`` of the examples all of it is left out, as it is when the model is asked.
        """
        shares = stratified(len(pairs), self.t_min, self.t_max, rng)
        return [
            answer_example(bundle, prompt, response, recalled=True)
            if rng.random() < self.infill_share
            else recovery_of_response(prompt, response, t, bundle, rng)
            for (prompt, response), t in zip(pairs, shares, strict=True)
        ]

    def answers(
        self,
        pairs: Sequence[tuple[str, str]],
        bundle: Bundle,
        rng: random.Random,  # noqa: ARG002 (nothing here is random)
    ) -> list[Example]:
        """Make plain SFT's example of each question with its answer."""
        return [answer_example(bundle, *pair) for pair in pairs]

    def _example(
        self, text: str, t: float, end: int, bundle: Bundle, rng: random.Random
    ) -> Example:
        ids, offsets = tokenize(bundle.tokenizer, text)
        if rng.random() < self.infill_share:
            gap, cut = choose_gap(text, offsets, rng), range(0)
            if rng.random() < self.cut_share:
                cut = choose_cut(word_starts(text, offsets), gap, rng)
            return infilling_example(bundle, ids, gap, cut, end)
        clozes = [covered(offsets, *half) for half in halves(text)]
        for _ in range(DRAWS):
            if rng.random() < self.span_share:
                hidden = choose_span(text, offsets, t, rng) or {rng.randrange(len(ids))}
            else:
                hidden = choose_tokens(ids, t, rng)
            if hidden not in clozes:
                break
        return recovery_example(bundle, ids, hidden, end)


def recovery_example(
    bundle: Bundle, ids: Sequence[int], hidden: Set[int], end: int, before: Sequence[int] = ()
) -> Example:
    """Ask for a passage of which some tokens are hidden; ``before`` stands in front of it."""
    reply = [*ids, end]
    recalled = [at in hidden for at in range(len(reply))]
    seen = [*before, *hide(ids, hidden, bundle.manifest.mask_id)]
    return reply_example(recovery_prompt(bundle.tokenizer, seen), reply, recalled)


def recovery_of_response(
    prompt: str, response: str, t: float, bundle: Bundle, rng: random.Random
) -> Example:
    """Ask for a response of which a share t of the tokens is hidden, behind its prompt."""
    ids = encode_text(bundle.tokenizer, response)
    hidden = choose_tokens(ids, t, rng)
    before = encode_text(bundle.tokenizer, prompt + "\n")
    return recovery_example(bundle, ids, hidden, end_id(bundle.tokenizer), before)


def infilling_example(
    bundle: Bundle, ids: Sequence[int], gap: range, cut: range, end: int
) -> Example:
    """Ask for one run of tokens, for which a single mask stands, and for nothing else.

    What is recalled then opens the reply, as it does in an answer: it has to be found by what the
    prompt shows, and can't be continued from words that the reply repeated just before. What is
    cut is neither shown nor asked for.
    """
    shown = [at for at in range(len(ids)) if at not in cut and (at not in gap or at == gap.start)]
    seen = [bundle.manifest.mask_id if at == gap.start else ids[at] for at in shown]
    content = [*seen, *encode_text(bundle.tokenizer, INFILL)]
    prompt = encode_chat(bundle.tokenizer, [{"role": "user", "content": content}])
    reply = [*ids[gap.start : gap.stop], end]
    return reply_example(prompt, reply, [True] * len(gap) + [False])


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


def choose_tokens(ids: Sequence[int], t: float, rng: random.Random) -> set[int]:
    """Choose each place with probability t, and at least one."""
    return {at for at in range(len(ids)) if rng.random() < t} or {rng.randrange(len(ids))}


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


def choose_gap(text: str, offsets: Offsets, rng: random.Random) -> range:
    """Choose tokens for an infilling example: a name, all before or after one, or some words."""
    words = find_words(text)
    if not words:
        return range(len(offsets))
    first, last = words[0][0], words[-1][1]
    names = find_names(text)
    kind = rng.randrange(3) if names else 2
    if kind == 2:
        # Something has to stay, or nothing says which statement is meant.
        size = rng.randint(1, max(1, len(words) - 1))
        begin = rng.randint(0, len(words) - size)
        span = words[begin][0], words[begin + size - 1][1]
    else:
        name = rng.choice(names)
        sides = [(first, name[0]), (name[1], last)]
        lengths = [max(0, end - start) for start, end in sides]
        span = name if kind == 0 or not any(lengths) else rng.choices(sides, lengths)[0]
    tokens = covered(offsets, *span)
    if kind != 2 and span != name:
        # Many tokenisers put the blank before a name into its first token, which has to stay.
        tokens -= covered(offsets, *name)
    return range(min(tokens), max(tokens) + 1)


def _without(tokens: Iterable[int], left_out: Set[int]) -> set[int]:
    return {token for token in tokens if token not in left_out}
