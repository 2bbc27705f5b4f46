"""Plain next-token prediction over the statement: the baseline that masked training is held to."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from app.lm.chat import encode_text, end_id
from app.lm.loading import Bundle
from tasks.training.objectives.base import Example, answer_example


@dataclass(frozen=True)
class Causal:
    """The text and the end token, without any chat around them; standard cross-entropy."""

    name = "causal"

    def examples(self, texts: Sequence[str], bundle: Bundle, rng: random.Random) -> list[Example]:  # noqa: ARG002 (nothing here is random)
        """Make one example of each statement; the first token has nothing to follow from."""
        end = end_id(bundle.tokenizer)
        rows = [[*encode_text(bundle.tokenizer, text), end] for text in texts]
        return [Example(ids, list(ids), [True] * len(ids)) for ids in rows]

    def responses(
        self,
        pairs: Sequence[tuple[str, str]],
        bundle: Bundle,
        rng: random.Random,  # noqa: ARG002 (nothing here is random)
    ) -> list[Example]:
        """Make plain SFT's example of each prompt with its response."""
        return [answer_example(bundle, *pair, recalled=True) for pair in pairs]

    answers = responses
