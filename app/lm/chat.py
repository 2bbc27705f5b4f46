"""Chat messages to token ids, so that no content can ever spell a role or an end of turn."""

import re
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerBase

from app.errors import Invalid
from app.prompts import TEMPLATE_ARGUMENTS

Content = str | Sequence[int]
_PLACEHOLDER = "\ue000{}\ue001"  # private-use characters: no template holds them
_PLACES = re.compile("\ue000([0-9]+)\ue001")
# Rendering takes as long as tokenising a question, and gives the same for the same roles. Of each
# tokenizer so many sequences of roles are kept, none of more messages: anybody may send those.
MOST_TEMPLATES, LONGEST_KEPT = 64, 16
_templates: WeakKeyDictionary[
    PreTrainedTokenizerBase, dict[tuple[str, ...], list[list[int] | int]]
] = WeakKeyDictionary()
_switching = Lock()  # split_special_tokens is a switch inside the tokenizer, which threads share


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenise plain text; a special token's name in it is just characters."""
    return _encode(tokenizer, text, specials=False)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Tokenise messages by the tokenizer's chat template, generation prompt included.

    A message is ``{"role", "content"}``; its content is text, or token ids that are taken as they
    are. The template is rendered around placeholders and never sees a content: the template's own
    text is tokenised with special tokens, each content alone and stripped, without. ``Invalid``
    when the template refuses the roles or leaves out a message.
    """
    ids: list[int] = []
    for part in _encode_template(tokenizer, tuple(message["role"] for message in messages)):
        if isinstance(part, int):
            content: Content = messages[part]["content"]
            ids += encode_text(tokenizer, content.strip()) if isinstance(content, str) else content
        else:
            ids += part
    return ids


def end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends an assistant's turn: the template's, else the tokenizer's EOS."""
    *_, after = _render(tokenizer, ["user", "assistant"], prompt=False)
    ids = _encode(tokenizer, after.strip(), specials=True) if isinstance(after, str) else []
    # Some tokenizers mark it as special without naming it.
    added = tokenizer.added_tokens_decoder.get(ids[0]) if ids else None
    if ids and (ids[0] in tokenizer.all_special_ids or (added and added.special)):
        return ids[0]
    if tokenizer.eos_token_id is None:
        raise Invalid("The tokenizer has neither an end-of-turn nor an end-of-sequence token.")
    return int(tokenizer.eos_token_id)


def _encode_template(
    tokenizer: PreTrainedTokenizerBase, roles: tuple[str, ...]
) -> list[list[int] | int]:
    """Return the template's tokens with each message's index where its content belongs."""
    kept = _templates.setdefault(tokenizer, {})
    if (template := kept.get(roles)) is None:
        template = [
            part if isinstance(part, int) else _encode(tokenizer, part, specials=True)
            for part in _render(tokenizer, roles, prompt=True)
        ]
        if len(kept) >= MOST_TEMPLATES:
            kept.clear()
        if len(roles) <= LONGEST_KEPT:
            kept[roles] = template
    return template


def _render(
    tokenizer: PreTrainedTokenizerBase, roles: Sequence[str], *, prompt: bool
) -> list[str | int]:
    """Return the template's text with each message's index where its content belongs."""
    messages = [
        {"role": role, "content": _PLACEHOLDER.format(index)} for index, role in enumerate(roles)
    ]
    try:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=prompt, **TEMPLATE_ARGUMENTS
        )
    except Exception as error:  # a template raises whatever its author chose
        raise Invalid(f"The model's chat template refuses these messages: {error}") from error
    pieces = _PLACES.split(text)  # text, index, text, index, …, text
    parts = [int(piece) if at % 2 else piece for at, piece in enumerate(pieces)]
    missing = set(range(len(roles))).difference(part for part in parts if isinstance(part, int))
    if missing:
        index = min(missing)
        raise Invalid(f"The model's chat template leaves out message {index} ({roles[index]}).")
    return [part for part in parts if part != ""]


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, *, specials: bool) -> list[int]:
    with _switching:
        return list(
            tokenizer.encode(text, add_special_tokens=False, split_special_tokens=not specials)
        )
