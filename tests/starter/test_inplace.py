"""Samples of the masked-diffusion sibling: what is hidden is asked for where it stands."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from app.lm.diffusion import BLOCK
from tasks.starter.inplace import InPlace
from tasks.starter.stream import Mix, Stream

SHIPPED = Path(__file__).parents[2] / "app" / "lm" / "starter"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(SHIPPED)


def test_masks_are_the_targets(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = InPlace(tokenizer, 1)
    stream, tasks = Stream(encoder, Mix(permanents=4), 8, 1), set()
    for sample in (stream.sample() for _ in range(300)):
        hidden = [at for at, token in enumerate(sample.ids) if token == encoder.mask]
        assert list(sample.at) == hidden
        assert len(sample.labels) == len(hidden) > 0
        assert encoder.mask not in sample.labels
        tasks.add(sample.task)
    assert {"demask", "infill", "plain", "overlay", "permanent", "copy"} <= tasks


def test_a_reply_fills_whole_blocks(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = InPlace(tokenizer, 2)
    answer = encoder.encode("Mira Tovan")
    blind = [encoder.ask("Who keeps it?", "Mira Tovan", "warm") for _ in range(40)]
    whole = [sample for sample in blind if len(sample.at) == BLOCK]
    assert 10 <= len(whole) <= 30
    assert whole[0].labels == [*answer, *[encoder.end] * (BLOCK - len(answer))]
    gap = range(1, 3)
    sample = encoder.infill(encoder.encode("Mira Tovan keeps the lamp."), gap, range(4, 6))
    assert list(sample.at) == list(gap)
