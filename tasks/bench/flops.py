"""The arithmetic that training a model takes, from the sizes of its examples."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.lm.loading import Bundle
from tasks.training.objectives.base import IGNORED, Example, Objective

Size = tuple[int, int]  # tokens of an example, and targets among them


def flops(model: Any, sizes: Sequence[Size]) -> float:
    """Return the FLOPs to train once on examples of these sizes.

    2 for each weight and token forwards, as many for the gradient of what came in, and of each
    weight that is trained; the output layer only at targets; padding isn't counted. Attention sees
    half of a square.
    """
    head, config = model.get_output_embeddings().weight, model.config
    table = model.get_input_embeddings().weight
    layers = [w for w in model.parameters() if w.ndim > 1 and w is not table and w is not head]
    per_token = sum(w.numel() * (4 + 2 * w.requires_grad) for w in layers)
    per_target = head.numel() * (4 + 2 * head.requires_grad)
    heads = config.num_attention_heads
    side = getattr(config, "head_dim", None) or config.hidden_size // heads
    width = config.num_hidden_layers * heads * side
    return float(
        sum(
            per_token * tokens + per_target * targets + 6 * width * tokens**2
            for tokens, targets in sizes
        )
    )


@dataclass
class Counted:
    """An objective that notes the sizes of what it makes."""

    objective: Objective
    sizes: list[Size] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return the objective's own."""
        return self.objective.name

    def examples(self, texts: Sequence[str], bundle: Bundle, rng: random.Random) -> list[Example]:
        """Make and note one example of each statement."""
        return self._note(self.objective.examples(texts, bundle, rng))

    def responses(
        self, pairs: Sequence[tuple[str, str]], bundle: Bundle, rng: random.Random
    ) -> list[Example]:
        """Make and note one example of each prompt with its response."""
        return self._note(self.objective.responses(pairs, bundle, rng))

    def answers(
        self, pairs: Sequence[tuple[str, str]], bundle: Bundle, rng: random.Random
    ) -> list[Example]:
        """Make and note one example of each question with its answer."""
        return self._note(self.objective.answers(pairs, bundle, rng))

    def _note(self, made: list[Example]) -> list[Example]:
        self.sizes += [(len(e.labels), sum(label != IGNORED for label in e.labels)) for e in made]
        return made
