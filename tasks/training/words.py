"""Which rows of the tables of words may learn: those of tokens that the taught texts have.

The softmax gives every row a gradient, however small, and Adam makes a full step of it: word by
word an update would move the whole vocabulary, by as much as what it teaches. What is lost by that
adds up from update to update (docs/knowledge.md).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from app.lm.chat import encode_text
from app.lm.loading import Bundle
from app.recipe import Recipe
from tasks.training.job import Fact


class Words:
    """Drops the gradients of all other rows, where a recipe trains the words apart."""

    def __init__(self, model: Any, tokens: Sequence[int], recipe: Recipe) -> None:
        tables = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        apart = recipe.trained == "words"
        learning = {id(table): table for table in tables if apart and table.requires_grad}
        self._kept = [(table, _mark(table, tokens)) for table in learning.values()]

    def drop_others(self) -> None:
        """Drop them, before gradients are measured or used."""
        for table, kept in self._kept:
            table.grad.mul_(kept)


def tokens_of(facts: Sequence[Fact], bundle: Bundle) -> list[int]:
    """Return the tokens of statements, prompts and responses, each once."""
    texts = [text for fact in facts for text in (fact.prompt, fact.text) if text]
    return sorted({token for text in texts for token in encode_text(bundle.tokenizer, text)})


def _mark(table: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return 1 for each row that may learn, else 0: [rows, 1], split as the table is."""
    kept = torch.zeros(table.shape[0], 1, dtype=table.dtype, device=table.device)
    kept[list(tokens)] = 1
    if not isinstance(table, DTensor):
        return kept
    return distribute_tensor(kept, table.device_mesh, table.placements, src_data_rank=None)
