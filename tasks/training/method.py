"""What of a model is trained and how that becomes a checkpoint: all weights, or one adapter.

A checkpoint is flat against its root (decision 6): an adapter is trained on from its parent's
adapter, never laid over it; full training of an adapter's model merges it into a new root.
"""

import copy
import json
import shutil
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from peft import (
    LoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file

from app.lm import store
from app.lm.loading import Bundle, load, pick_device
from app.recipe import Recipe
from tasks.training.errors import BadParent
from tasks.training.job import Head

# How transformers' decoder classes name the feed-forward part of a layer.
MLP = ".mlp."
# Files that training doesn't change.
KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Trainee:
    """A model in training, and what its checkpoint will be."""

    bundle: Bundle
    kind: Literal["full", "adapter"]
    root: str | None  # digest
    base_folder: Path  # the root's files, or for full training those of the old root

    @property
    def shape(self) -> dict[str, int | str]:
        """The recipe's fields that an adapter keeps from its parent, whatever was wished."""
        if self.kind != "adapter":
            return {}
        config = self.bundle.model.peft_config["default"]
        factors = [name for name, _ in self.bundle.model.named_parameters() if "lora_" in name]
        trained = "mlp" if all(MLP in name for name in factors) else "all"
        return {"lora_rank": config.r, "lora_alpha": config.lora_alpha, "trained": trained}

    def save(self, folder: Path) -> None:
        """Write weights and what belongs to them; the model then holds exactly what was saved."""
        folder.mkdir()
        if self.kind == "adapter":
            _save_adapter(self.bundle.model, self.root or "", folder)
        else:
            _save_full(self.bundle.model, self.base_folder, folder)


def load_parent(folder: Path, digest: str, recipe: Recipe, *, trains: bool = True) -> Bundle:
    """Load the checkpoint to start from; all of its weights in float32 if all are trained."""
    dtype = torch.float32 if recipe.method == "full" and trains else None
    return load(folder, digest, device=pick_device(recipe.device), dtype=dtype)


def load_base(head: Head, parent: Bundle) -> Bundle | None:
    """Load what the parent was once derived from, to be asked; None where it is that itself.

    For an adapter it is the root, whose tensors the parent lends.
    """
    root = parent.manifest.root
    if head.recipe.method == "lora":
        if root is None:
            return None
        tensors = chain(parent.model.parameters(), parent.model.buffers())
        twin = copy.deepcopy(parent.model, {id(tensor): tensor for tensor in tensors})
        manifest = store.manifest_of(head.store, root)
        return replace(parent, model=twin.unload(), manifest=manifest, digest=root)
    if head.base is None or head.base == parent.digest:
        return None
    return load_parent(head.store, head.base, head.recipe, trains=False)


def prepare(bundle: Bundle, recipe: Recipe, folder: Path) -> Trainee:
    """Make a loaded parent trainable by the recipe's method, in place.

    ``BadParent`` where MLPs should learn and the model's class calls none so, or activations should
    be recomputed and its class can't.
    """
    if recipe.trained != "all" and not any(MLP in n for n, _ in bundle.model.named_parameters()):
        raise BadParent("This model's layers name no MLP: set the recipe's `trained` to `all`.")
    parent = bundle.manifest
    root = parent.root or bundle.digest
    base_folder = store.path_of(folder, root)
    if recipe.method == "full":
        model = bundle.model if parent.root is None else bundle.model.merge_and_unload()
        thaw(model, recipe)
        _recompute_activations(model, recipe)
        return Trainee(replace(bundle, model=model), "full", None, base_folder)
    if parent.root is None:
        torch.manual_seed(recipe.seed)
        model = get_peft_model(bundle.model, adapter_of(bundle.model, recipe))
    else:
        model = bundle.model
        _thaw_adapter(model, store.path_of(folder, bundle.digest))
    _recompute_activations(model, recipe)
    return Trainee(replace(bundle, model=model), "adapter", root, base_folder)


def _recompute_activations(model: Any, recipe: Recipe) -> None:
    """Have a layer's activations computed again in the backward pass, if the recipe says so."""
    if not recipe.checkpointing:
        return
    try:
        model.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise BadParent(str(error)) from error
    model.disable_input_require_grads()  # which reentrant checkpoints alone need


def thaw(model: Any, recipe: Recipe) -> None:
    """Let the recipe's weights learn: facts lie in the MLPs, words in the embeddings."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    words = {id(table.weight) for table in tables}  # a head's bias would learn for every word
    for name, weight in model.named_parameters():
        is_word = recipe.trained == "words" and id(weight) in words
        weight.requires_grad_(recipe.trained == "all" or MLP in name or is_word)


def _mlp_layers(model: Any) -> list[str]:
    """Name them in short, or in full where another part of a layer has one of their names.

    ``BadParent`` where there is none of torch's own.
    """
    linear = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    found = [name for name in linear if MLP in name]
    short = {name.rpartition(".")[2] for name in found}
    if not found:
        raise BadParent("This model's MLPs have no layers that adapters fit.")
    clash = any(MLP not in name and name.rpartition(".")[2] in short for name in linear)
    return sorted(found if clash else short)


def adapter_of(model: Any, recipe: Recipe) -> LoraConfig:
    """Say which layers of a model get factors, and of which rank."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear" if recipe.trained == "all" else _mlp_layers(model),
    )


def _thaw_adapter(model: Any, folder: Path) -> None:
    """Make a loaded adapter trainable, with its float32 factors as they were saved."""
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()
            weight.requires_grad_(True)
    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def _save_adapter(model: Any, root: str, folder: Path) -> None:
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": root, "inference_mode": True}
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order isn't stable
    text = json.dumps(config, indent=1, sort_keys=True, default=str)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    # What is proven now is what the engine will serve: the factors in the root's compute type.
    compute = next(model.parameters()).dtype
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.to(compute)


def stored_type(folder: Path) -> torch.dtype:
    """Return the type in which a checkpoint's weights are kept."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    assert isinstance(stored, torch.dtype)  # noqa: S101 - narrows the type
    return stored


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Round the weights alone: buffers, such as the frequencies of positions, are float32 ever."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


def _save_full(model: Any, base_folder: Path, folder: Path) -> None:
    on_cuda = next(model.parameters()).is_cuda
    _cast(model, stored_type(base_folder))
    model.save_pretrained(folder)
    # What is proven now is what the engine will load: the saved weights in its compute type.
    _cast(model, torch.bfloat16 if on_cuda else torch.float32)
    for name in KEPT:
        if (base_folder / name).exists():
            shutil.copyfile(base_folder / name, folder / name)
