"""The tokenizer: any text survives, names look alike everywhere, text never spells a special."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tasks.starter.build import tokenizer_texts
from tasks.starter.samples import Encoder
from tasks.starter.tokenizer import ESCAPE, JOIN, SPECIALS, encode, train_tokenizer


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(tokenizer_texts(500), size=800)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.text(), st.text(alphabet=f"aB1 \n\t\"'(-.’“{JOIN}{ESCAPE}é中😀<|>")))
def test_any_text_survives(text: str) -> None:
    assert tokenizer().decode(encode(tokenizer(), text)).strip() == text.strip()


@settings(deadline=None)
@given(st.lists(st.sampled_from([*SPECIALS, "a ", " ", "<|", "|>"])).map("".join))
def test_text_never_spells_a_special_token(text: str) -> None:
    assert not set(encode(tokenizer(), text)) & set(tokenizer().all_special_ids)
    assert not set(Encoder(tokenizer()).encode(text)) & set(tokenizer().all_special_ids)


@pytest.mark.parametrize("name", ["Maren Oltmere", "Zyx", "Yaith 13", "the Ura Gallery"])
@pytest.mark.parametrize(
    "frame", ["{}", "by {}", "x\n{}", '"{}"', "({})", "- {}.", "'{}'", "“{}”", "a—{}", "{}'s"]
)
def test_a_name_has_the_same_tokens_everywhere(name: str, frame: str) -> None:
    wanted = encode(tokenizer(), name)
    ids = encode(tokenizer(), frame.format(name))
    width = len(wanted)
    assert any(ids[i : i + width] == wanted for i in range(len(ids) - width + 1))


def test_chat_template_is_roles_and_ends() -> None:
    messages = [{"role": "user", "content": "Hi"}]
    text = tokenizer().apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>Hi<|end|><|assistant|>"
