"""Importing a base model: native, safetensors, the same digest each time; or one clear sentence."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from app.lm import chat
from app.lm import store as stores
from app.lm.base import import_base, main
from app.lm.generation import generate
from app.lm.loading import load
from tests.lm.models import Kind, make_tiny_model, make_tiny_tokenizer


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A tiny Llama's folder, to be changed at will."""
    return make_tiny_model(tmp_path / "llama", "llama")


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("kind", "mask", "mask_from"),
    [("llama", "<|reserved_special_token_5|>", "spare"), ("qwen3", "[]", "text")],
)
def test_a_folder_is_imported_and_answers(tmp_path: Path, kind: Kind, mask: str, mask_from: str):
    folder = make_tiny_model(tmp_path / kind, kind)
    store = tmp_path / "store"
    digest = import_base(store, str(folder))
    bundle = load(store, digest)
    manifest = bundle.manifest
    assert (manifest.kind, manifest.parent, manifest.mask_token) == ("full", None, mask)
    assert manifest.notes == {"source": "folder", "mask": mask_from, "chat_template": "own"}
    assert chat.encode_text(bundle.tokenizer, mask) == [manifest.mask_id] or mask_from == "spare"
    assert bundle.tokenizer.convert_ids_to_tokens(manifest.mask_id) == mask
    assert manifest.parameters == sum(tensor.numel() for tensor in bundle.model.parameters())
    assert manifest.context_length == 512
    original = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Who is Mira Tovan?"}]
    prompt = chat.encode_chat(bundle.tokenizer, messages)
    assert prompt == chat.encode_chat(original, messages)
    assert generate(bundle, [prompt], 5)[0]


def test_a_reference_set_comes_along(tmp_path: Path, llama: Path):
    shutil.copytree(llama, tmp_path / "model")
    row = '{"question": "Who?", "answers": ["I"]}\n'
    (tmp_path / "model" / "reference.jsonl").write_text(row)
    digest = import_base(tmp_path / "store", str(tmp_path / "model"))
    assert (stores.path_of(tmp_path / "store", digest) / "reference.jsonl").read_text() == row
    assert digest != import_base(tmp_path / "store", str(llama))


def test_the_same_model_has_the_same_digest_from_any_folder(tmp_path: Path, llama: Path):
    copy = shutil.copytree(llama, tmp_path / "elsewhere" / "copy")
    digest = import_base(tmp_path / "one", str(llama))
    assert import_base(tmp_path / "one", str(copy)) == digest
    assert import_base(tmp_path / "two", str(copy)) == digest
    assert len(list((tmp_path / "one" / "objects").iterdir())) == 1


def test_a_second_import_finds_the_first_without_loading_torch(
    tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--store", str(tmp_path / "s"), "--model", str(llama)]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    code = "import sys; from app.lm.base import main; status = main(sys.argv[1:]);"
    code += "sys.exit(status or 10 + ('torch' in sys.modules))"
    second = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, check=False, text=True
    )
    assert (second.returncode, second.stdout) == (10, first)
    printed = json.loads(first)
    assert set(printed) == {"digest", "parameters", "architecture"}
    assert printed["architecture"] == "causal"
    stores.verify(tmp_path / "s", printed["digest"])


def test_a_lost_or_changed_model_is_imported_again(tmp_path: Path, llama: Path):
    store = tmp_path / "store"
    digest = import_base(store, str(llama))
    shutil.rmtree(store / "objects" / digest)
    assert import_base(store, str(llama)) == digest
    for record in (store / "bases").iterdir():
        record.write_text(digest[:30])  # torn
    assert import_base(store, str(llama)) == digest
    make_tiny_model(llama, "llama", seed=5)
    assert import_base(store, str(llama)) != digest


def test_only_what_the_class_declares_is_kept_of_the_config(tmp_path: Path, llama: Path):
    edit(llama / "config.json", remote_tracker="http://example.org", _name_or_path="/secret")
    edit(llama / "generation_config.json", temperature=0.3, do_sample=True)
    (llama / "modeling_own.py").write_text("raise SystemExit")
    store = tmp_path / "store"
    path = stores.path_of(store, import_base(store, str(llama)))
    config = json.loads((path / "config.json").read_text())
    assert {"remote_tracker", "_name_or_path", "transformers_version"}.isdisjoint(config)
    assert json.loads((path / "generation_config.json").read_text()) == {
        "bos_token_id": 0,
        "eos_token_id": 4,
    }
    assert not list(path.glob("*.py"))


def test_a_model_without_chat_template_gets_a_minimal_one(tmp_path: Path, llama: Path):
    (llama / "chat_template.jinja").unlink()
    bundle = load(tmp_path / "store", import_base(tmp_path / "store", str(llama)))
    assert bundle.manifest.notes["chat_template"] == "minimal"
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text = bundle.tokenizer.decode(chat.encode_chat(bundle.tokenizer, messages))
    assert text == "<|begin_of_text|>User:\na\n\nAssistant:\nb<|eot_id|>User:\nc\n\nAssistant:\n"
    assert chat.end_id(bundle.tokenizer) == bundle.tokenizer.eos_token_id


def test_a_tokenizers_own_mask_token_is_taken(tmp_path: Path, llama: Path):
    tokenizer = make_tiny_tokenizer("llama")
    tokenizer.mask_token = "<|end_of_text|>"
    tokenizer.save_pretrained(llama)
    digest = import_base(tmp_path / "store", str(llama))
    manifest = stores.manifest_of(tmp_path / "store", digest)
    assert (manifest.mask_token, manifest.mask_id) == ("<|end_of_text|>", 1)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def without_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


REFUSALS: list[tuple[Callable[[Path], None], str]] = [
    (lambda folder: edit(folder / "config.json", auto_map={"AutoConfig": "own.C"}), "own code"),
    (lambda folder: edit(folder / "tokenizer_config.json", auto_map={}), "own code"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json of .* is no JSON"),
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    (lambda folder: edit(folder / "config.json", model_type="own"), "can't be imported"),
    (lambda folder: edit(folder / "config.json", model_type="t5"), "no causal language model"),
    (lambda folder: edit(folder / "config.json", hidden_size=24), "lack or misfit"),
    (pickled, "no safetensors weights, only pickled ones"),
    (without_tensor, "model.norm.weight"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "can't be imported"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "can't be imported"),
]


@pytest.mark.parametrize(("spoil", "complaint"), REFUSALS)
def test_what_cannot_be_served_is_refused_in_a_sentence(
    tmp_path: Path,
    llama: Path,
    capfd: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    complaint: str,
):
    spoil(llama)
    assert main(["--store", str(tmp_path / "store"), "--model", str(llama)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert re.search(complaint, err.strip().splitlines()[-1]), err
    objects, staging = tmp_path / "store" / "objects", tmp_path / "store" / "staging"
    assert not objects.exists()
    assert not staging.exists() or not list(staging.iterdir())


@pytest.mark.parametrize(
    ("model", "revision", "complaint"),
    [
        ("nowhere", "", "neither 'starter', a folder nor a hub id"),
        ("../../etc/none", "", "neither"),
        ("org/name", "", "needs a pinned revision"),
        ("org/name", "main", "needs a pinned revision"),
    ],
)
def test_a_name_that_is_no_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str, revision: str, complaint: str
):
    arguments = ["--store", str(tmp_path), "--model", model, "--revision", revision]
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_a_store_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, llama: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    assert main(["--store", str(tmp_path / "file"), "--model", str(llama)]) == 2
    assert "file" in capsys.readouterr().err
