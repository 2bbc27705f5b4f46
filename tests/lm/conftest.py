"""A store with tiny published models, made once, and engines over it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import uvicorn
from peft import LoraConfig, get_peft_model

from app.lm import store as stores
from app.lm.base import import_base
from app.lm.engine import Limits
from app.lm.loading import Bundle, load
from app.lm.server import make_app
from tests.lm.models import make_tiny_model

torch.set_num_threads(1)


class TinyStore(NamedTuple):
    """A checkpoint store and the digests in it by name: llama, other, qwen3, mistral, …"""

    path: Path
    digests: dict[str, str]


def publish_adapter(store: Path, root: Bundle, seed: int = 0) -> str:
    """Publish a LoRA adapter with random factors over a root; return its digest."""
    torch.manual_seed(seed)
    folder = stores.staging_folder(store, f"adapter.{seed}")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(load(store, root.digest).model, config)
    for name, tensor in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    fields = root.manifest.model_dump(exclude={"files", "format", "notes"})
    stores.seal(folder, **fields | {"kind": "adapter", "root": root.digest, "parent": root.digest})
    return stores.publish(store, folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStore:
    """A store with two Llamas that differ, one model of each other kind, and an adapter."""
    store, folders = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("folders")
    made = {
        "llama": make_tiny_model(folders / "llama", "llama"),
        "other": make_tiny_model(folders / "other", "llama", seed=1),
        "qwen3": make_tiny_model(folders / "qwen3", "qwen3"),
        "mistral": make_tiny_model(folders / "mistral", "mistral"),
        "endless": make_tiny_model(folders / "endless", "llama", endless=True),
        "diffusion": make_tiny_model(folders / "diffusion", "llama", diffusion=True),
    }
    digests = {name: import_base(store, str(folder)) for name, folder in made.items()}
    digests["adapter"] = publish_adapter(store, load(store, digests["llama"]))
    return TinyStore(store, digests)


@pytest.fixture(scope="session", params=["llama", "qwen3", "mistral"])
def bundle(request: pytest.FixtureRequest, tiny: TinyStore) -> Bundle:
    """A loaded tiny model of each kind."""
    return load(tiny.path, tiny.digests[request.param])


@contextmanager
def serving(limits: Limits) -> Iterator[str]:
    """Run an engine in a thread of this process; give its URL."""
    config = uvicorn.Config(make_app(limits), port=0, log_level="critical", lifespan="on")
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"  # connections wait in the backlog
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


@pytest.fixture
def engine(tiny: TinyStore) -> Iterator[Callable[..., str]]:
    """Start engines with limits of one's own; each call gives a URL."""
    usual = {"store": tiny.path, "memory": 2**30, "max_batch": 8, "max_waiting": 64}
    with ExitStack() as stack:
        yield lambda **limits: stack.enter_context(
            serving(Limits(**usual | {"deadline_s": 60.0} | limits))
        )
