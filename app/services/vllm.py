"""What can't be asked of vLLM: refused before anything is stored or computed (docs/vllm.md)."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import select

from app.config import Settings
from app.db import Reader
from app.errors import Conflict, Invalid, Unavailable
from app.models import Checkpoint
from app.models.base import JsonObject
from app.recipe import Recipe


def fit_recipe(settings: Settings, wish: Recipe | None = None) -> Recipe | None:
    """Where vLLM is the engine, wish for an adapter that it can serve in all that isn't wished."""
    if settings.engine_kind != "vllm":
        return wish
    usual, most = Recipe(), settings.vllm_max_lora_rank
    fitting: JsonObject = {"method": "lora"}
    if usual.lora_rank > most:
        alpha = max(1, usual.lora_alpha * most // usual.lora_rank)
        fitting |= {"lora_rank": most, "lora_alpha": alpha}
    return Recipe(**fitting | (wish.model_dump(exclude_unset=True) if wish else {}))


def check_recipe(settings: Settings, recipe: Recipe) -> None:
    """Raise `Invalid` for a recipe whose checkpoint vLLM couldn't serve."""
    if settings.engine_kind != "vllm":
        return
    if recipe.objective == "diffusion":
        raise Invalid("vLLM can't answer by masked diffusion.", pointer="/recipe/objective")
    if recipe.method != "lora":
        raise Invalid("vLLM serves adapters only: use `lora`.", pointer="/recipe/method")
    if recipe.lora_rank > settings.vllm_max_lora_rank:
        most = settings.vllm_max_lora_rank
        raise Invalid(f"vLLM serves ranks up to {most} here.", pointer="/recipe/lora_rank")


def check_stored(settings: Settings, fields: JsonObject) -> None:
    """Do so for a stored recipe; `Conflict` for one that isn't readable any more."""
    if settings.engine_kind != "vllm":
        return
    try:
        recipe = Recipe(**fields)
    except ValidationError:
        raise Conflict("Its recipe is of another release: open a new update.") from None
    check_recipe(settings, recipe)


def check_kind(settings: Settings, kind: str) -> None:
    """Raise `Invalid` for an update that makes a new root, which vLLM is started with."""
    if settings.engine_kind == "vllm" and kind == "consolidate":
        detail = "vLLM can't change its root: start it with the new one instead."
        raise Invalid(detail, pointer="/kind")


def check_texts(reader: Reader, settings: Settings, texts: Mapping[str, str]) -> None:
    """Raise `Invalid` for the first text, by its JSON pointer, that spells a special token.

    Our own engine reads such text as text; vLLM reads the token, so it could fake a role.
    """
    tokens = _tokens_of(reader, settings)
    for pointer, text in texts.items():
        if token := _find(tokens, text):
            raise Invalid(f"spells `{token}`, a special token of the model", pointer=pointer)


def find_special_token(reader: Reader, settings: Settings, text: str) -> str | None:
    """Return a special token that vLLM would read in the text, if there is one."""
    return _find(_tokens_of(reader, settings), text)


def _find(tokens: Sequence[str], text: str) -> str | None:
    return next((token for token in tokens if token in text), None)


def _tokens_of(reader: Reader, settings: Settings) -> tuple[str, ...]:
    if settings.engine_kind != "vllm":
        return ()
    base = reader.scalar(select(Checkpoint.digest).where(Checkpoint.version == 0))
    return _special_tokens(settings.store / "objects" / base) if base else ()


@lru_cache(4)
def _special_tokens(checkpoint: Path) -> tuple[str, ...]:
    try:
        added = json.loads((checkpoint / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    except OSError:
        raise Unavailable("The base model's tokenizer can't be read from the store.") from None
    return tuple(token["content"] for token in added if token["special"])
