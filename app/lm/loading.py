"""Checkpoints to models in memory: native classes, safetensors, every tensor accounted for."""

import copy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from app.errors import CheckpointCorrupt
from app.lm import chat, store
from app.lm.store import Manifest

logging.disable_progress_bar()  # this runs in services, whose stderr is a log


@dataclass(frozen=True)
class Bundle:
    """A model ready to answer or to train, with what belongs to it."""

    model: Any  # a PreTrainedModel, or a PeftModel over one
    tokenizer: PreTrainedTokenizerBase
    manifest: Manifest
    digest: str
    stop_ids: frozenset[int]  # tokens that end an answer

    @property
    def size(self) -> int:
        """Bytes of the tensors that this model alone holds (an adapter's root is not counted)."""
        packed = ((n, b) for n, b in self.model.named_buffers() if n.endswith(".weight"))
        named = chain(self.model.named_parameters(), packed)
        own = self.manifest.kind == "full"
        return sum(tensor.nbytes for name, tensor in named if own or "lora_" in name)


def pick_device(name: str = "auto") -> str:
    """Turn ``auto`` into ``cuda`` where there is one, else ``cpu``."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def default_dtype(device: str) -> torch.dtype:
    """Return the compute type: bfloat16 on a GPU, float32 on a CPU.

    On a CPU bfloat16 would double a full batch's throughput where the CPU knows it, but slow down
    single answers, and answers would depend on what else is in the batch.
    """
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def load(
    folder: Path,
    digest: str,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    root: Bundle | None = None,
) -> Bundle:
    """Verify and load a checkpoint from the store ``folder``, in evaluation mode.

    An adapter lies over its root; ``root``, if it is that root and loaded already, lends its
    tensors and stays as it was. ``dtype`` is ``default_dtype`` unless given.
    Raises ``NotFound``, or ``CheckpointCorrupt`` naming the file or tensor at fault.
    """
    manifest = store.verify(folder, digest)
    if manifest.root is None:
        return _load_full(folder, digest, manifest, device, dtype)
    if root is None or root.digest != manifest.root:
        root = load(folder, manifest.root, device=device, dtype=dtype)
    tensors = chain(root.model.parameters(), root.model.buffers())
    shell = copy.deepcopy(root.model, {id(tensor): tensor for tensor in tensors})
    path = store.path_of(folder, digest)
    try:
        # Trained factors are kept in float32; beside a bfloat16 root they serve in bfloat16.
        model = PeftModel.from_pretrained(shell, path, autocast_adapter_dtype=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointCorrupt(f"Adapter {digest} doesn't fit its root: {error}") from error
    model.eval()
    _check_finite(model, digest)
    return Bundle(model, root.tokenizer, manifest, digest, root.stop_ids)


def _load_full(
    folder: Path, digest: str, manifest: Manifest, device: str, dtype: torch.dtype | None
) -> Bundle:
    path = store.path_of(folder, digest)
    dtype = dtype or default_dtype(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=False
        )
        model, report = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # reported below by name instead
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointCorrupt(f"Checkpoint {digest} can't be loaded: {error}") from error
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise CheckpointCorrupt(f"Tensors of checkpoint {digest} don't fit its config: {wrong}")
    if type(model).__name__ != manifest.model_class:
        raise CheckpointCorrupt(
            f"config.json of checkpoint {digest} gives a {type(model).__name__},"
            f" its manifest a {manifest.model_class}."
        )
    if manifest.architecture == "diffusion":
        _see_both_ways(model)
    model.to(device).eval()
    _check_finite(model, digest)
    return Bundle(model, tokenizer, manifest, digest, stop_ids(model, tokenizer))


def _see_both_ways(model: Any) -> None:
    """Have every token see those after it too, in training as in generation."""
    model.config.is_causal = False  # masks go by this, attention without a mask by its module's
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def stop_ids(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return every token that ends an answer: the template's, the tokenizer's, the model's."""
    declared = model.generation_config.eos_token_id
    listed = declared if isinstance(declared, list) else [declared]
    ids = {chat.end_id(tokenizer), tokenizer.eos_token_id, *listed}
    return frozenset(token for token in ids if token is not None)


def _check_finite(model: torch.nn.Module, digest: str) -> None:
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise CheckpointCorrupt(f"Tensor {name} of checkpoint {digest} has NaN or Inf.")
