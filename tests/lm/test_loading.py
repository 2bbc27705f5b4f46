"""Loading: what is in memory is what was published, or the load is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.errors import CheckpointCorrupt, NotFound
from app.lm import store as stores
from app.lm.generation import generate
from app.lm.loading import load
from tests.lm.conftest import TinyStore

PROMPTS = [[7, 8, 9, 10], [20, 21], [30, 31, 32]]


def republish(tiny: TinyStore, tmp_path: Path, change: str) -> str:
    """Publish a damaged but sealed copy of the tiny Llama: the manifest vouches for the damage."""
    manifest = stores.manifest_of(tiny.path, tiny.digests["llama"])
    folder = stores.staging_folder(tmp_path, "copy")
    for name in manifest.files:
        data = (stores.path_of(tiny.path, tiny.digests["llama"]) / name).read_bytes()
        (folder / name).write_bytes(data)
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        weights["model.layers.0.extra"] = torch.ones(2)
    elif change == "shape":
        weights[name] = weights[name][:-4].contiguous()
    elif change == "nan":
        weights[name][0, 0] = float("nan")
    elif change == "class":
        config = json.loads((folder / "config.json").read_text())
        config["architectures"], config["model_type"] = ["MistralForCausalLM"], "mistral"
        (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    stores.seal(folder, **manifest.model_dump(exclude={"files", "format"}))
    return stores.publish(tmp_path, folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("missing", "q_proj"),
        ("unexpected", "extra"),
        ("shape", "q_proj"),
        ("nan", "q_proj.weight .* NaN or Inf"),
        ("class", "gives a MistralForCausalLM"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tiny: TinyStore, tmp_path: Path, change: str, complaint: str
):
    digest = republish(tiny, tmp_path, change)
    with pytest.raises(CheckpointCorrupt, match=complaint):
        load(tmp_path, digest)


def test_an_unharmed_copy_loads(tiny: TinyStore, tmp_path: Path):
    digest = republish(tiny, tmp_path, "nothing")
    assert digest == tiny.digests["llama"]
    assert generate(load(tmp_path, digest), PROMPTS, 8) == generate(
        load(tiny.path, digest), PROMPTS, 8
    )


def test_unknown_checkpoints_are_not_found(tiny: TinyStore):
    with pytest.raises(NotFound):
        load(tiny.path, "0" * 64)


def test_an_adapter_shares_its_root_and_leaves_it_as_it_was(tiny: TinyStore):
    root = load(tiny.path, tiny.digests["llama"])
    before = generate(root, PROMPTS, 8)
    shared = load(tiny.path, tiny.digests["adapter"], root=root)
    alone = load(tiny.path, tiny.digests["adapter"])
    assert generate(shared, PROMPTS, 8) == generate(alone, PROMPTS, 8) != before
    assert generate(root, PROMPTS, 8) == before
    own = {tensor.data_ptr() for tensor in root.model.parameters()}
    assert own < {tensor.data_ptr() for tensor in shared.model.parameters()}
    assert shared.size == sum(
        tensor.nbytes for name, tensor in shared.model.named_parameters() if "lora_" in name
    )
    assert root.size == root.manifest.parameters * 4


def test_an_adapter_that_does_not_fit_its_root_is_refused(tiny: TinyStore):
    other = load(tiny.path, tiny.digests["qwen3"])
    folder = stores.staging_folder(tiny.path, "misfit")
    source = stores.path_of(tiny.path, tiny.digests["adapter"])
    weights = load_file(source / "adapter_model.safetensors")
    weights = {name: tensor[:, :-1].contiguous() for name, tensor in weights.items()}
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    fields = other.manifest.model_dump(exclude={"files", "format", "notes"})
    stores.seal(folder, **fields | {"kind": "adapter", "root": other.digest})
    digest = stores.publish(tiny.path, folder)
    with pytest.raises(CheckpointCorrupt, match="doesn't fit its root"):
        load(tiny.path, digest)
