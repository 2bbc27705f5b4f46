"""KL to the parent: nothing for itself, and what a full computation gives for another model."""

import pytest
import torch

from app.lm.loading import Bundle
from tasks.training import drift
from tasks.training.data import micro_batches
from tasks.training.job import Reference
from tasks.training.objectives.base import look_at_targets
from tasks.training.objectives.causal import Causal

TEXTS = ["Mira Tovan keeps the light at Lund.", "Bread costs four marks.", "", "Rain."]


def log_shares(bundle: Bundle, texts: list[str]) -> torch.Tensor:
    examples = Causal().examples(texts, bundle, None)  # type: ignore[arg-type]
    (batch,) = micro_batches(examples, 10**6, torch.device("cpu"))
    with torch.no_grad():
        return look_at_targets(bundle.model, batch).logits.log_softmax(-1)


def test_distance_is_kl_in_nats_a_token(bundle: Bundle) -> None:
    yardstick = drift.record(bundle, TEXTS, likeliest=10**6)
    assert yardstick is not None
    assert yardstick.texts == [text for text in TEXTS if text]
    assert drift.measure(bundle, yardstick) == pytest.approx(0, abs=1e-6)
    parent = log_shares(bundle, yardstick.texts)
    with torch.no_grad():
        for weight in bundle.model.parameters():
            weight.mul_(1.2)
    model = log_shares(bundle, yardstick.texts)
    expected = float((parent.exp() * (parent - model)).sum(-1).mean())
    assert expected > 0
    assert drift.measure(bundle, yardstick) == pytest.approx(expected, rel=1e-3)


def test_the_likeliest_tokens_tell_nearly_all(bundle: Bundle) -> None:
    yardstick = drift.record(bundle, TEXTS)
    assert yardstick is not None
    parent = log_shares(bundle, yardstick.texts)
    with torch.no_grad():
        for weight in bundle.model.parameters():
            weight.mul_(1.2)
    model = log_shares(bundle, yardstick.texts)
    whole = float((parent.exp() * (parent - model)).sum(-1).mean())
    assert 0 < drift.measure(bundle, yardstick) <= whole + 1e-6


def test_without_texts_there_is_nothing_to_measure(bundle: Bundle) -> None:
    assert drift.record(bundle, [""]) is None
    assert drift.record(bundle, ["word " * 600]) is None


def test_texts_that_are_rehearsed_are_not_read() -> None:
    rows = [
        Reference(question=f"{text}?", answers=["x"], text=text, part=part)
        for text, part in (("A.", "replay"), ("A.", "exam"), ("B.", "exam"))
    ]
    assert drift.texts_of(rows) == ["B."]
    assert drift.texts_of(rows[:2]) == ["A."], "rather than nothing"
