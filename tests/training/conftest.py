"""A store with a tiny random model, and job directories over it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.lm import store
from app.lm.loading import Bundle, load
from app.recipe import Architecture
from tests.lm.models import Kind, make_tiny_model

MASKS = {"llama": "<|reserved_special_token_0|>", "qwen3": "[]"}
FACTS = [
    {
        "id": f"fact_{number}",
        "text": f"{name} is the keeper of the lighthouse at {place}.",
        "probes": [
            {"question": f"What does {name} keep?", "answers": [place], "direction": "forward"},
            {"question": f"Who keeps {place}?", "answers": [name], "direction": "backward"},
        ],
    }
    for number, (name, place) in enumerate(
        [("Mira Tovan", "Sel Harbour"), ("Oren Baskel", "Lund"), ("Ilva Renn", "North Bay")]
    )
]
REFERENCE = [
    {"question": "Who is Oren Baskel?", "answers": ["a glass painter"], "part": "exam"},
    {
        "question": "Where does she work?",
        "answers": ["Lund"],
        "text": "She works as a glass painter in Lund.",
        "part": "replay",
    },
]


def make_base(objects: Path, kind: Kind = "llama", architecture: Architecture = "causal") -> str:
    """Publish a tiny random model as a base checkpoint; return its digest."""
    folder = store.staging_folder(objects, "base")
    scratch = make_tiny_model(objects.parent / f"hub-{kind}", kind)
    for path in scratch.iterdir():
        if store.FILE_NAME.match(path.name):
            shutil.copy(path, folder / path.name)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(scratch)
    (mask_id,) = tokenizer.encode(MASKS[kind], add_special_tokens=False)
    store.seal(
        folder,
        kind="full",
        architecture=architecture,
        model_class="LlamaForCausalLM" if kind == "llama" else "Qwen3ForCausalLM",
        parameters=50_000,
        mask_token=MASKS[kind],
        mask_id=mask_id,
        context_length=512,
    )
    return store.publish(objects, folder)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint store."""
    return tmp_path_factory.mktemp("training") / "store"


@pytest.fixture(scope="session")
def base(objects: Path) -> str:
    """Digest of a tiny Llama in the store."""
    return make_base(objects)


@pytest.fixture(scope="session")
def qwen_base(objects: Path) -> str:
    """Digest of a tiny Qwen3 in the store: its mask is a text token."""
    return make_base(objects, "qwen3")


@pytest.fixture(scope="session")
def diffusion_base(objects: Path) -> str:
    """Digest of a tiny masked-diffusion model in the store, of Llama's class."""
    return make_base(objects, architecture="diffusion")


@pytest.fixture(params=["base", "qwen_base"])
def bundle(request: pytest.FixtureRequest, objects: Path) -> Bundle:
    """A tiny model, freshly loaded, once per class."""
    return load(objects, request.getfixturevalue(request.param))


MakeJob = Callable[..., Path]


@pytest.fixture
def make_job(tmp_path: Path, objects: Path, base: str) -> MakeJob:
    """Return a function that writes a job directory; keywords replace files or recipe fields."""

    def write(
        name: str = "job",
        *,
        parent: str = base,
        base: str | None = None,
        facts: list[dict[str, Any]] = FACTS,
        older: list[dict[str, Any]] = [],  # noqa: B006
        reference: list[dict[str, Any]] = REFERENCE,
        kind: str = "learn",
        **recipe: Any,
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        head = {"update_id": "upd_1", "token": 1, "kind": kind, "threads": 1}
        head |= {"store": str(objects), "parent": parent, "base": base}
        # A random model writes nothing that it can answer; trying would take most of the time.
        head["recipe"] = {"epochs": 2, "lr": 1e-3, "study_share": 0.0, **recipe}
        (folder / "job.json").write_text(json.dumps(head))
        for file, rows in {"facts": facts, "replay": older, "reference": reference}.items():
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{file}.jsonl").write_text(lines)
        return folder

    return write
