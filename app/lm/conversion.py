"""A Hugging Face folder made into a sealed base checkpoint (needs torch; see ``base``)."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from app.errors import DomainError, Invalid
from app.lm import chat, store
from app.lm.attention import can_pack

logging.disable_progress_bar()

# For a base model without a chat template: roles in words, an answer ended by EOS.
MINIMAL_TEMPLATE = """{{- bos_token }}
{%- for message in messages %}
    {{- message['role'] | capitalize + ':\\n' + message['content'] }}
    {{- eos_token if message['role'] == 'assistant' else '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant:\\n' }}
{%- endif %}"""
_SPARE_TOKEN = re.compile(r"reserved|unused|extra_id", re.IGNORECASE)
# Generation keeps plain keys and values for every layer; recurrent layers keep something else.
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# What transformers notes about a run rather than about the model.
_VOLATILE = {
    "_name_or_path",
    "auto_map",
    "is_local",
    "local_files_only",
    "name_or_path",
    "transformers_version",
}
REFERENCE = "reference.jsonl"
_SAMPLE = "Who is Mira Tovan? 42 lighthouses, 灯台; naïve café.\n\tEnd"


def convert(folder: Path, staged: Path, name: str, source: str) -> str:
    """Write ``folder``'s model into ``staged`` in our form and seal it; return the digest."""
    try:
        if (folder / REFERENCE).is_file():  # what the model knows, and has to go on knowing
            shutil.copyfile(folder / REFERENCE, staged / REFERENCE)
        return _convert(folder, staged, source)
    except DomainError:
        raise
    except Exception as error:  # foreign files make loaders raise anything
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Invalid(f"{name} can't be imported: {line}") from error


def _convert(folder: Path, staged: Path, source: str) -> str:
    local = {"local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(folder, **local)
    # Transformers' own switch; a masked-diffusion model in a causal class is known by it alone.
    architecture = "causal" if getattr(config, "is_causal", True) else "diffusion"
    _check_class(config, architecture)
    tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    if not tokenizer.is_fast:
        raise Invalid(
            f"The tokenizer {type(tokenizer).__name__} has no fast form (tokenizer.json)."
        )
    own_template = _settle_template(tokenizer)
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype="auto",
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # reported below by name instead
        output_loading_info=True,
        **local,
    )
    if not can_pack(model):
        raise Invalid(f"{type(model).__name__} can't be served: its attention can't be replaced.")
    missing = sorted(map(str, report["missing_keys"])) + sorted(map(str, report["mismatched_keys"]))
    if missing:
        raise Invalid(f"The weights lack or misfit {len(missing)} tensors, first {missing[0]}.")
    _save(staged, model, tokenizer)
    saved = AutoTokenizer.from_pretrained(staged, **local)
    if saved.encode(_SAMPLE) != tokenizer.encode(_SAMPLE):
        raise Invalid("The tokenizer changes when it is saved and loaded again.")
    mask_token, mask_id, mask_from = choose_mask(tokenizer, model.get_input_embeddings())
    if architecture == "diffusion" and mask_from != "own":
        raise Invalid("A diffusion model needs a mask token, which its tokenizer doesn't name.")
    return store.seal(
        staged,
        kind="full",
        architecture=architecture,
        model_class=type(model).__name__,
        parameters=model.num_parameters(),
        mask_token=mask_token,
        mask_id=mask_id,
        context_length=config.get_text_config().max_position_embeddings,
        notes={"source": source, "mask": mask_from, "chat_template": own_template},
    )


def _check_class(config: Any, architecture: str) -> None:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise Invalid(f"A {config.model_type} model is no causal language model of transformers.")
    layers = getattr(config.get_text_config(), "layer_types", None) or []
    strange = sorted(set(layers) - _LAYER_TYPES)
    if strange:
        raise Invalid(f"Models with {strange[0]} layers can't be served yet.")
    if architecture == "diffusion" and getattr(config, "sliding_window", None):
        raise Invalid("A diffusion model with a sliding window can't be served.")


def _settle_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Leave the tokenizer with one chat template; return whose it is."""
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several, by purpose
        tokenizer.chat_template = template = template.get("default")
    if template is None:
        tokenizer.chat_template = MINIMAL_TEMPLATE
    chat.end_id(tokenizer)  # raises where an answer couldn't end
    return "own" if template else "minimal"


def _save(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write model and tokenizer, the same bytes for the same model.

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
    for path in folder.iterdir():
        if not store.FILE_NAME.match(path.name):
            path.unlink()  # copies of what tokenizer.json holds
        elif path.name.endswith("config.json"):
            fields = json.loads(path.read_text())
            kept = {key: value for key, value in fields.items() if key not in _VOLATILE}
            path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def choose_mask(
    tokenizer: PreTrainedTokenizerBase, embeddings: torch.nn.Embedding
) -> tuple[str, int, str]:
    """Choose the token that stands for hidden ones; return it, its id and where it is from.

    The tokenizer's own mask token, else a spare one (of Llama 3's the sixth, 128013, as in arXiv
    2510.09885), else ``[]`` or a like piece of plain text that is one token, as there for Qwen.
    """
    if tokenizer.mask_token is not None:
        return str(tokenizer.mask_token), int(tokenizer.mask_token_id), "own"
    spare = [
        (index, token.content)
        for index, token in sorted(tokenizer.added_tokens_decoder.items())
        if _SPARE_TOKEN.search(token.content) and index < embeddings.num_embeddings
    ]
    if spare:
        index, token = spare[min(5, len(spare) - 1)]
        return token, index, "spare"
    for text in ("[]", "[MASK]", "___", "_", "#"):
        ids = chat.encode_text(tokenizer, text)
        if len(ids) == 1:
            return text, ids[0], "text"
    raise Invalid("The tokenizer has no token that could stand for a masked one.")
