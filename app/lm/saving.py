"""Models to checkpoint files: safetensors and rebuilt configs; the same model, the same bytes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from app.lm.store import FILE_NAME

# What transformers and peft note about a run rather than about the model.
_VOLATILE = {
    "_name_or_path",
    "auto_map",
    "auto_mapping",
    "base_model_name_or_path",
    "is_local",
    "local_files_only",
    "name_or_path",
    "transformers_version",
}


def save_full(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a whole model and its tokenizer into a staged folder, ready to seal.

    The config is rebuilt from the fields that its native class declares; of the generation config
    only the special tokens' ids are kept.
    """
    declared = {field.name for field in dataclasses.fields(model.config)}
    config = {key: value for key, value in model.config.to_dict().items() if key in declared}
    model.config = type(model.config)(**config)
    ids = ("bos_token_id", "eos_token_id", "pad_token_id")
    model.generation_config = GenerationConfig(
        **{name: getattr(model.generation_config, name) for name in ids}
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _tidy(folder)


def save_adapter(folder: Path, model: Any) -> None:
    """Write a PeftModel's adapter, without its root, into a staged folder, ready to seal."""
    model.save_pretrained(folder)
    _tidy(folder)


def _tidy(folder: Path) -> None:
    for path in folder.iterdir():
        if not FILE_NAME.match(path.name):
            path.unlink()  # peft's README, copies of the vocabulary that tokenizer.json holds
        elif path.name.endswith("config.json"):
            fields = json.loads(path.read_text())
            kept = {key: value for key, value in fields.items() if key not in _VOLATILE}
            path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
