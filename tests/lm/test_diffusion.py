"""A masked-diffusion model answers by unmasking block by block, the same alone and in company."""

import random
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch

from app.errors import Invalid
from app.lm import chat
from app.lm.base import import_base
from app.lm.diffusion import BLOCK, SURE
from app.lm.generation import decode, generate, start_batch
from app.lm.loading import Bundle, load
from app.lm.rows import Row
from tests.lm.conftest import TinyStore, publish_adapter
from tests.lm.models import SENTENCES, make_tiny_model
from tests.lm.test_engine import CHAT, body, said

TOKENS = 2 * BLOCK + 9


@pytest.fixture(scope="module")
def diffusion(tiny: TinyStore) -> Bundle:
    """A loaded tiny diffusion model."""
    return load(tiny.path, tiny.digests["diffusion"])


def prompts(bundle: Bundle, count: int) -> list[list[int]]:
    draw = random.Random(count)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 40))) for _ in range(count)]
    return [bundle.tokenizer.encode(text) for text in texts]


@torch.inference_mode()
def alone(bundle: Bundle, prompt: list[int], max_tokens: int = TOKENS) -> list[int]:
    """Unmask one prompt's answer by the book: transformers' own attention, all of it visible."""
    mask, answer = bundle.manifest.mask_id, list[int]()
    while len(answer) < max_tokens:
        block = [mask] * min(BLOCK, max_tokens - len(answer))
        while mask in block:
            ids = torch.tensor([[*prompt, *answer, *block]])
            visible = torch.ones(1, 1, ids.shape[1], ids.shape[1], dtype=torch.bool)
            logits = bundle.model(ids, attention_mask=visible).logits[0, -len(block) :]
            logits[:, mask] = -torch.inf
            sure, token = logits.softmax(dim=-1).max(dim=-1)
            sure[[at for at, known in enumerate(block) if known != mask]] = -1.0
            for at in range(len(block)):
                if sure[at] >= SURE or at == int(sure.argmax()):
                    block[at] = int(token[at])
        for token_id in block:
            if token_id in bundle.stop_ids:
                return answer
            answer.append(token_id)
    return answer


def test_a_mixed_batch_unmasks_as_one_by_one(diffusion: Bundle):
    asked = prompts(diffusion, 12)
    expected = [decode(diffusion, alone(diffusion, prompt)) for prompt in asked]
    assert generate(diffusion, asked, TOKENS) == expected
    assert len(set(expected)) > 10  # the test would show a mix-up


def test_without_a_mask_it_attends_both_ways(diffusion: Bundle, tiny: TinyStore):
    ids = torch.tensor([prompts(diffusion, 1)[0]])
    changed = ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 100
    with torch.inference_mode():
        first, other = (diffusion.model(given).logits[0, 0] for given in (ids, changed))
        causal = load(tiny.path, tiny.digests["llama"]).model
        same, still = (causal(given).logits[0, 0] for given in (ids, changed))
    assert not torch.allclose(first, other)
    assert torch.equal(same, still)


def test_rows_that_join_and_leave_at_any_step_disturb_nobody(diffusion: Bundle):
    draw = random.Random(3)
    waiting = [Row(prompt, draw.randint(1, TOKENS)) for prompt in prompts(diffusion, 14)]
    everyone, batch = list(waiting), start_batch(diffusion)
    while waiting or batch.rows:
        joining = draw.randint(0, min(2, len(waiting))) if batch.rows else 1
        batch.step([waiting.pop() for _ in range(joining)])
        if batch.rows and draw.random() < 0.03:
            leaving = draw.choice(batch.rows)
            leaving.finish = leaving.finish or "cancelled"
        batch.sweep()
    assert {row.finish for row in everyone} >= {"length", "cancelled"}
    for row in everyone:
        expected = alone(diffusion, list(row.prompt), row.max_tokens)
        assert row.tokens == expected[: len(row.tokens)]
        assert row.finish == "cancelled" or len(row.tokens) == len(expected)


def test_an_answer_ends_where_it_stops_though_more_was_unmasked(diffusion: Bundle):
    prompt = prompts(diffusion, 1)[0]
    known = alone(diffusion, prompt)
    stopping = Bundle(**vars(diffusion) | {"stop_ids": frozenset([known[5]])})
    assert generate(stopping, [prompt], TOKENS) == [
        decode(diffusion, known[: known.index(known[5])])
    ]


def test_sampling_follows_its_seed(diffusion: Bundle):
    prompt = prompts(diffusion, 1)[0]

    def sample(seed: int) -> list[int]:
        row, batch = Row(prompt, BLOCK, temperature=2.0, seed=seed), start_batch(diffusion)
        batch.step([row])
        while row.finish is None:
            batch.step()
        return row.tokens

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_an_adapter_over_it_answers_both_ways_too(diffusion: Bundle, tiny: TinyStore):
    digest = publish_adapter(tiny.path, diffusion, seed=5)
    adapter = load(tiny.path, digest, root=diffusion)
    prompt = prompts(diffusion, 1)[0]
    found = generate(adapter, [prompt], BLOCK)
    assert found == [decode(adapter, alone(adapter, prompt, BLOCK))]
    assert found != generate(diffusion, [prompt], BLOCK)


def test_the_engine_serves_it_beside_causal_ones(engine: Callable[..., str], tiny: TinyStore):
    url, bundle = engine(), load(tiny.path, tiny.digests["diffusion"])
    question = "Who is Mira Tovan?"
    prompt = chat.encode_chat(bundle.tokenizer, [{"role": "user", "content": question}])
    expected = decode(bundle, alone(bundle, prompt))
    for name in ("diffusion", "llama", "diffusion"):
        asked = body(tiny.digests[name], question, TOKENS)
        answer = said(httpx.post(url + CHAT, json=asked, timeout=60))
        assert (answer == expected) == (name == "diffusion")


def test_a_diffusion_model_without_a_mask_token_is_refused(tmp_path: Path):
    folder = make_tiny_model(tmp_path / "model", "qwen3")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"is_causal": false,', 1))
    with pytest.raises(Invalid, match="needs a mask token"):
        import_base(tmp_path / "store", str(folder))


def test_a_diffusion_model_with_a_sliding_window_is_refused(tmp_path: Path):
    folder = make_tiny_model(tmp_path / "model", "mistral", diffusion=True)
    with pytest.raises(Invalid, match="sliding window"):
        import_base(tmp_path / "store", str(folder))
