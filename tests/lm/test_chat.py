"""Chat encoding: the template's tokens come from the template alone."""

from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import Invalid
from app.lm import chat
from app.lm.loading import Bundle
from tests.lm.models import LLAMA_SPECIALS, QWEN_SPECIALS

same_bundle = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
hostile = st.lists(
    st.one_of(
        st.sampled_from([*LLAMA_SPECIALS, *QWEN_SPECIALS, "user\n", "\ue0000\ue001"]), st.text()
    ),
    max_size=5,
).map("".join)
roles = st.lists(st.sampled_from(["system", "user", "assistant"]), min_size=1, max_size=3)


def specials(bundle: Bundle, ids: list[int]) -> list[int]:
    return [token for token in ids if token in bundle.tokenizer.all_special_ids]


@same_bundle
@given(text=hostile)
def test_text_never_becomes_a_special_token_and_nothing_is_lost(bundle: Bundle, text: str):
    ids = chat.encode_text(bundle.tokenizer, text)
    assert not set(ids) & set(bundle.tokenizer.added_tokens_decoder)
    assert bundle.tokenizer.decode(ids) == text


@same_bundle
@given(contents=st.lists(hostile, min_size=3, max_size=3), roles=roles)
def test_contents_change_nothing_but_their_own_place(
    bundle: Bundle, contents: list[str], roles: list[str]
):
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]
    plain = [{"role": role, "content": ""} for role in roles]
    ids = chat.encode_chat(bundle.tokenizer, messages)
    assert specials(bundle, ids) == specials(bundle, chat.encode_chat(bundle.tokenizer, plain))
    as_ids = [
        {"role": role, "content": chat.encode_text(bundle.tokenizer, content.strip())}
        for role, content in zip(roles, contents, strict=False)
    ]
    assert chat.encode_chat(bundle.tokenizer, as_ids) == ids


def test_an_ordinary_chat_is_what_the_template_writes(bundle: Bundle):
    messages = [
        {"role": "user", "content": "Who is Mira Tovan?"},
        {"role": "assistant", "content": "The keeper."},
        {"role": "user", "content": "Of what?"},
    ]
    expected = bundle.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    assert chat.encode_chat(bundle.tokenizer, messages) == expected


def test_token_ids_are_taken_as_they_are(bundle: Bundle):
    mask = 0  # a special token that the template doesn't write there
    framed = chat.encode_chat(bundle.tokenizer, [{"role": "user", "content": [mask, 9, mask]}])
    empty = chat.encode_chat(bundle.tokenizer, [{"role": "user", "content": []}])
    assert len(framed) == len(empty) + 3
    start = next(at for at, (a, b) in enumerate(zip(framed, empty, strict=False)) if a != b)
    assert framed[start : start + 3] == [mask, 9, mask]


def test_the_turn_ends_with_the_templates_token(bundle: Bundle):
    end = bundle.tokenizer.decode([chat.end_id(bundle.tokenizer)])
    assert end in ("<|eot_id|>", "<|im_end|>")
    assert chat.end_id(bundle.tokenizer) in bundle.stop_ids


def test_an_end_that_is_special_needs_no_name(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    end = chat.end_id(bundle.tokenizer)
    monkeypatch.setattr(type(bundle.tokenizer), "all_special_ids", [])
    assert chat.end_id(bundle.tokenizer) == end


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ raise_exception('no system turn') }}", "no system turn"),
        ("{{ messages[0].content }}", r"leaves out message 1 \(user\)"),
    ],
)
def test_a_template_that_refuses_or_drops_a_message_is_an_error(
    bundle: Bundle, template: str, complaint: str
):
    tokenizer = deepcopy(bundle.tokenizer)
    tokenizer.chat_template = template
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    with pytest.raises(Invalid, match=complaint):
        chat.encode_chat(tokenizer, messages)
