"""Samples of a masked-diffusion model: what is hidden is said in its own place."""

from random import Random

from transformers import PreTrainedTokenizerFast

from app.lm.diffusion import BLOCK
from tasks.starter.samples import Encoder, Sample, token_masks

# The share of replies of which nothing is shown, as at an answer's first step.
BLIND = 0.5


class InPlace(Encoder):
    """Hides tokens of a text, or of a reply behind its prompt; the masks are the targets."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        super().__init__(tokenizer)
        self.rng = Random(seed)

    def plain(self, text: str) -> Sample:
        """Make a text of which any share is hidden."""
        ids = self.encode(text)
        return self._unmask([], ids, token_masks(self.rng, len(ids)), "plain")

    def reply(self, user: list[int], answer: list[int], task: str) -> Sample:
        """Make a chat of two turns; end tokens fill the reply's last block, as masks do later."""
        reply = [*answer, self.end]
        reply += [self.end] * (-len(reply) % BLOCK)
        blind = self.rng.random() < BLIND
        hidden = [True] * len(reply) if blind else token_masks(self.rng, len(reply))
        return self._unmask(self.head(user), reply, hidden, task)

    def copy(self, ids: list[int], hidden: list[bool]) -> Sample:
        """Make a chat whose reply repeats the prompt, of which nothing is hidden."""
        del hidden
        return self.reply(ids, ids, "copy")

    def demask(self, ids: list[int], hidden: list[bool]) -> Sample:
        """Make a text of which some tokens are hidden."""
        return self._unmask([], ids, hidden, "demask")

    def infill(self, ids: list[int], gap: range, cut: range = range(0)) -> Sample:
        """Make a text of which one run of tokens is hidden; what is cut is not there at all."""
        at = [i for i in range(len(ids)) if i not in cut]
        return self._unmask([], [ids[i] for i in at], [i in gap for i in at], "infill")

    def _unmask(self, before: list[int], ids: list[int], hidden: list[bool], task: str) -> Sample:
        places = [at for at, hide in enumerate(hidden) if hide] or [self.rng.randrange(len(ids))]
        chosen = set(places)
        seen = self.hide(ids, [at in chosen for at in range(len(ids))])
        at = [len(before) + place for place in places]
        return Sample([*before, *seen], at, [ids[place] for place in places], task)
