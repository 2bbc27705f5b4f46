"""What learns, and what is proven, of model classes that are built unlike the starter."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import ModernBertDecoderConfig, ModernBertDecoderForCausalLM

from app.lm.loading import load
from app.recipe import Recipe
from tasks.training import method, run
from tasks.training.job import read_job
from tasks.training.method import adapter_of, load_parent, prepare, thaw
from tests.training.conftest import MakeJob


def decoder() -> ModernBertDecoderForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = ModernBertDecoderConfig(
        vocab_size=64, num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        cls_token_id=1, sep_token_id=2, **sizes,
    )  # fmt: skip
    return ModernBertDecoderForCausalLM(config)


def learning(model: torch.nn.Module) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def test_words_learn_without_the_heads_bias() -> None:
    """A bias has one number for each word, taught or not."""
    model = decoder()
    assert any(name.endswith("decoder.bias") for name, _ in model.named_parameters())
    thaw(model, Recipe(trained="words"))
    assert not any("bias" in name for name in learning(model))
    assert any("embed" in name for name in learning(model))


def test_adapters_of_mlps_leave_attention_alone() -> None:
    """Also where one of its layers has the name of one of an MLP's."""
    model = decoder()
    adapted = learning(get_peft_model(model, adapter_of(model, Recipe(method="lora"))))
    assert adapted
    assert all(".mlp." in name for name in adapted)


def test_saving_rounds_no_buffer(
    objects: Path, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frequencies of positions have to be what the engine computes from the config."""
    monkeypatch.setattr(method, "stored_type", lambda _: torch.bfloat16)
    recipe = Recipe(method="full")
    trainee = prepare(load_parent(objects, base, recipe), recipe, objects)
    trainee.save(tmp_path / "checkpoint")
    loaded = dict(load(objects, base).model.named_buffers())
    saved = dict(trainee.bundle.model.named_buffers())
    assert saved.keys() == loaded.keys() != set()
    assert all(saved[name].equal(loaded[name]) for name in loaded)
    weights = list(trainee.bundle.model.parameters())
    assert all(w.equal(w.to(torch.bfloat16).float()) for w in weights), "weights are rounded"


def test_an_answer_that_was_cut_is_not_replayed(
    make_job: MakeJob, objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = read_job(make_job(replay_share=0.5))
    bundle = load(objects, job.head.parent)
    monkeypatch.setattr(run, "REPLAYED_ANSWER_TOKENS", 1)
    assert run.plan_lessons(job, bundle).answered == []
