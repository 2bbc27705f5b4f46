"""Batched generation gives every prompt what it gets alone."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import inf

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import Invalid
from app.lm import chat, generation
from app.lm.generation import Batch, generate
from app.lm.loading import Bundle
from app.lm.rows import Row
from app.lm.scheduler import Job, Reader
from tests.lm.models import SENTENCES

TOKENS = 24


def prompts(bundle: Bundle, count: int, longest: int = 60) -> list[list[int]]:
    draw = random.Random(count)
    words = " ".join(SENTENCES).split()
    texts = [" ".join(draw.choices(words, k=draw.randint(1, longest))) for _ in range(count)]
    return [bundle.tokenizer.encode(text) for text in texts]


def alone(bundle: Bundle, prompt: list[int], max_tokens: int = TOKENS) -> list[int]:
    """What transformers' own greedy generation answers, stop token left out."""
    ids = torch.tensor([prompt])
    answer = bundle.model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_tokens,
        do_sample=False,
        eos_token_id=sorted(bundle.stop_ids),
        pad_token_id=0,
    )
    tokens: list[int] = answer[0, len(prompt) :].tolist()
    return tokens[:-1] if tokens[-1] in bundle.stop_ids else tokens


def test_a_mixed_batch_answers_as_one_by_one(bundle: Bundle):
    asked = prompts(bundle, 24)
    expected = [generation.decode(bundle, alone(bundle, prompt)) for prompt in asked]
    assert generate(bundle, asked, TOKENS) == expected
    assert len(set(expected)) > 15  # the test would show a mix-up


def test_each_answer_has_a_limit_of_its_own(bundle: Bundle):
    asked = prompts(bundle, 6)
    limits = [1, 5, TOKENS, 2, 1, 7]
    alone_each = [generate(bundle, [p], most)[0] for p, most in zip(asked, limits, strict=True)]
    assert generate(bundle, asked, limits) == alone_each


def test_a_small_step_runs_on_one_core_and_a_large_one_on_all(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    usual = torch.get_num_threads()
    seen: list[int] = []
    hook = bundle.model.register_forward_pre_hook(lambda *_: seen.append(torch.get_num_threads()))
    try:
        torch.set_num_threads(2)
        generate(bundle, prompts(bundle, 1), 2)
        monkeypatch.setattr(generation, "ONE_CORE_WORK", 0)
        generate(bundle, prompts(bundle, 1), 2)
        assert torch.get_num_threads() == 2
    finally:
        hook.remove()
        torch.set_num_threads(usual)
    assert set(seen[: len(seen) // 2]) == {1}
    assert set(seen[len(seen) // 2 :]) == {2}


def test_more_prompts_than_rows_join_as_others_leave(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    asked = prompts(bundle, 30)
    expected = generate(bundle, asked, TOKENS)
    monkeypatch.setattr(generation, "MAX_ROWS", 4)
    assert generate(bundle, asked, TOKENS) == expected


def test_wide_rows_wait_for_each_other(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    """Memory is for so many keys and values, and for so many tokens read at once."""
    asked, widths, step = prompts(bundle, 12), [], Batch.step

    def watch(batch: Batch, joining: Sequence[Row] = ()) -> None:
        step(batch, joining)
        widths.append((len(joining), len(batch.rows)))

    monkeypatch.setattr(Batch, "step", watch)
    expected = generate(bundle, asked, TOKENS)
    assert max(rows for _, rows in widths) == 12
    for name in ("MOST_KEPT", "JOIN_TOKENS"):
        widths.clear()
        with monkeypatch.context() as patch:
            patch.setattr(generation, name, 1)
            assert generate(bundle, asked, TOKENS) == expected
        assert max(joined for joined, _ in widths) == 1
        assert max(rows for _, rows in widths) == (1 if name == "MOST_KEPT" else 12)


def test_rows_that_join_and_leave_at_any_step_disturb_nobody(bundle: Bundle):
    draw = random.Random(7)
    waiting = [Row(prompt, draw.randint(1, TOKENS)) for prompt in prompts(bundle, 25)]
    everyone, gone = list(waiting), []
    batch = Batch(bundle)
    while waiting or batch.rows:
        if waiting and (not batch.rows or draw.random() < 0.4):
            batch.step([waiting.pop() for _ in range(min(len(waiting), draw.randint(1, 3)))])
        else:
            batch.step()
        if batch.rows and draw.random() < 0.1:
            gone.append(draw.choice(batch.rows))
            gone[-1].finish = gone[-1].finish or "cancelled"
        batch.sweep()
    assert {row.finish for row in everyone} >= {"length", "cancelled"}
    for row in everyone:
        expected = alone(bundle, list(row.prompt), row.max_tokens)
        assert row.tokens == expected[: len(row.tokens)]
        assert row.finish == "cancelled" or len(row.tokens) == len(expected)


def run(bundle: Bundle, stop_ids: frozenset[int], row: Row) -> Row:
    batch = Batch(replace(bundle, stop_ids=stop_ids))
    batch.step([row])
    while row.finish is None:
        batch.step()
    return row


def test_an_answer_stops_at_a_stop_token_or_says_that_it_was_cut(bundle: Bundle):
    prompt = prompts(bundle, 1)[0]
    cut = run(bundle, frozenset(), Row(prompt, 8))
    assert (cut.finish, len(cut.tokens)) == ("length", 8)
    end = cut.tokens[3]
    stopped = run(bundle, frozenset([end]), Row(prompt, 8))
    assert (stopped.finish, stopped.tokens) == ("stop", cut.tokens[: cut.tokens.index(end)])


def test_sampling_follows_its_seed_and_greedy_neighbours_are_undisturbed(bundle: Bundle):
    prompt = prompts(bundle, 1)[0]

    def sample(seed: int, **options: float) -> tuple[list[int], list[int]]:
        drawn, greedy = (
            Row(prompt, TOKENS, temperature=2.0, seed=seed, **options),
            Row(prompt, TOKENS),
        )
        batch = Batch(bundle)
        batch.step([greedy, drawn])
        while batch.rows:
            batch.step()
            batch.sweep()
        return drawn.tokens, greedy.tokens

    assert sample(1) == sample(1)
    assert sample(1)[0] != sample(2)[0]
    assert sample(1)[1] == alone(bundle, prompt)
    assert sample(1, top_p=1e-9)[0] == alone(bundle, prompt)


def test_the_context_is_never_overrun(bundle: Bundle):
    with pytest.raises(Invalid, match="Prompt 1 has 512 tokens"):
        generate(bundle, [[5], [5] * 512], 4)
    assert generate(bundle, [[5] * 511], 100) == [
        generation.decode(bundle, alone(bundle, [5] * 511, 1))
    ]
    assert generate(bundle, [], 4) == []


def test_a_model_in_training_mode_stays_so(bundle: Bundle):
    bundle.model.train()
    try:
        generate(bundle, prompts(bundle, 2), 2)
        assert bundle.model.training
    finally:
        bundle.model.eval()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pieces_of_any_answer_join_to_the_whole(bundle: Bundle, data: st.DataObject):
    token = st.integers(0, len(bundle.tokenizer) - 1)
    text = st.text(alphabet="aé灯👩‍🚀 \n").map(partial(chat.encode_text, bundle.tokenizer))
    tokens = data.draw(st.one_of(st.lists(token, max_size=30), text))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(tokens)))))
    reader = Reader(bundle)
    pieces = [reader.read(tokens[:cut], finished=False) for cut in cuts]
    pieces.append(reader.read(tokens, finished=True))
    assert "".join(pieces) == generation.decode(bundle, tokens)


def test_a_stream_loses_no_token_that_comes_while_it_is_read(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
):
    tokens = chat.encode_text(bundle.tokenizer, "one two three four five six")
    row = Row([1], 100)
    job, coming, decoded = Job(bundle, row, inf, stream=True), list(tokens), Reader._decode

    def decode(reader: Reader, seen: list[int]) -> str:
        """Let the model thread be a token ahead after each call."""
        text = decoded(reader, seen)
        if coming:
            row.append(coming.pop(0), frozenset())
        else:
            row.finish = "stop"
        job.changed.set()
        return text

    async def read() -> str:
        return "".join([piece async for piece in job.pieces()])

    monkeypatch.setattr(Reader, "_decode", decode)
    job.changed.set()
    assert asyncio.run(read()) == generation.decode(bundle, tokens)
