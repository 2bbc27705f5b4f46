"""Fine-tuning of a masked-diffusion model: recover what is masked in place.

The model sees a text both ways, and says at each mask what belongs there (LLaDA, arXiv 2502.09992).
Only masks are targets; each weighs 1/t, with t the share that was really masked. In expectation
this is the paper's weight, and it is steadier.
"""

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass

from app.lm.chat import encode_chat, encode_text, end_id
from app.lm.diffusion import BLOCK
from app.lm.loading import Bundle
from app.prompts import ask
from tasks.training.objectives.base import IGNORED, Example
from tasks.training.objectives.masked import choose_span, choose_tokens, hide, stratified
from tasks.training.objectives.spans import tokenize


@dataclass(frozen=True)
class Diffusion:
    """Masks tokens with probability t, or in ``span_share`` of the examples a whole span."""

    t_min: float
    t_max: float
    span_share: float

    name = "diffusion"

    def examples(self, texts: Sequence[str], bundle: Bundle, rng: random.Random) -> list[Example]:
        """Make one example of each statement, without any chat around it."""
        shares = stratified(len(texts), self.t_min, self.t_max, rng)
        return [self._example(text, t, bundle, rng) for text, t in zip(texts, shares, strict=True)]

    def responses(
        self, pairs: Sequence[tuple[str, str]], bundle: Bundle, rng: random.Random
    ) -> list[Example]:
        """Make one example of each prompt with its response, of which a share t is masked.

        End tokens fill the last block, as generation fills it with masks.
        """
        shares = stratified(len(pairs), self.t_min, self.t_max, rng)
        end = end_id(bundle.tokenizer)
        made = []
        for (prompt, response), t in zip(pairs, shares, strict=True):
            reply = [*encode_text(bundle.tokenizer, response), end]
            reply += [end] * (-len(reply) % BLOCK)
            before = encode_chat(bundle.tokenizer, ask(prompt))
            made.append(unmasking_example(bundle, before, reply, choose_tokens(reply, t, rng)))
        return made

    answers = responses

    def _example(self, text: str, t: float, bundle: Bundle, rng: random.Random) -> Example:
        ids, offsets = tokenize(bundle.tokenizer, text)
        if rng.random() < self.span_share:
            hidden = choose_span(text, offsets, t, rng) or {rng.randrange(len(ids))}
        else:
            hidden = choose_tokens(ids, t, rng)
        return unmasking_example(bundle, [], ids, hidden)


def unmasking_example(
    bundle: Bundle, before: Sequence[int], ids: Sequence[int], hidden: Set[int]
) -> Example:
    """Ask for the hidden ones of some tokens; what stands before them is shown."""
    asked = [at in hidden for at in range(len(ids))]
    labels = [token if ask else IGNORED for token, ask in zip(ids, asked, strict=True)]
    return Example(
        input_ids=[*before, *hide(ids, hidden, bundle.manifest.mask_id)],
        labels=[IGNORED] * len(before) + labels,
        recalled=[False] * len(before) + asked,
        weight=len(ids) / len(hidden),
    )
