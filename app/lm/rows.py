"""One prompt and its growing answer, and how a token is drawn for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

LEAST_TEMPERATURE = 1e-5


@dataclass(eq=False)
class Row:
    """One prompt and its growing answer."""

    prompt: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    tokens: list[int] = field(default_factory=list)
    finish: Literal["stop", "length", "cancelled"] | None = None
    generator: torch.Generator | None = None

    @property
    def size(self) -> int:
        """Return how many tokens prompt and answer have so far."""
        return len(self.prompt) + len(self.tokens)

    def append(self, token: int, stop_ids: frozenset[int]) -> None:
        """Add the next token, or end the answer where it stops or is long enough."""
        if token in stop_ids:
            self.finish = self.finish or "stop"
            return
        self.tokens.append(token)
        if len(self.tokens) >= self.max_tokens:
            self.finish = self.finish or "length"

    def sample(self, logits: Tensor) -> int:
        """Draw from the nucleus ``top_p`` at the row's temperature; the seed alone decides."""
        if self.generator is None:
            self.generator = torch.Generator()
            if self.seed is None:
                self.generator.seed()
            else:
                self.generator.manual_seed(self.seed)
        scaled = logits.float().cpu()
        # However low, no temperature may make a share that is no number.
        scaled = (scaled - scaled.max()) / max(self.temperature, LEAST_TEMPERATURE)
        shares, order = torch.softmax(scaled, dim=-1).sort(descending=True)
        shares[shares.cumsum(dim=0) - shares >= self.top_p] = 0.0
        return int(order[torch.multinomial(shares, 1, generator=self.generator)])
