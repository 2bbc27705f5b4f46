"""A store with tiny published models, made once for the runtime's tests."""

from pathlib import Path

import pytest
import torch

from app.lm import store as stores
from app.lm.loading import Bundle, load
from tests.lm.models import Kind, make_tiny_model

torch.set_num_threads(1)


def publish_tiny(store: Path, kind: Kind, seed: int = 0) -> str:
    """Publish a tiny model as a base checkpoint; return its digest."""
    folder = make_tiny_model(stores.staging_folder(store, f"{kind}.{seed}"), kind, seed=seed)
    stores.seal(
        folder,
        kind="full",
        model_class={"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[kind],
        parameters=1,
        mask_token="[]",
        mask_id=0,
        context_length=512,
    )
    return stores.publish(store, folder)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A store with two Llamas that differ and a Qwen3; their digests by name. Not to be changed."""
    store = tmp_path_factory.mktemp("tiny_store")
    return store, {
        "llama": publish_tiny(store, "llama"),
        "other": publish_tiny(store, "llama", seed=1),
        "qwen3": publish_tiny(store, "qwen3"),
    }


@pytest.fixture(scope="session", params=["llama", "qwen3"])
def bundle(request: pytest.FixtureRequest, tiny_store: tuple[Path, dict[str, str]]) -> Bundle:
    """A loaded tiny model of each kind."""
    store, digests = tiny_store
    return load(store, digests[request.param])
