"""The store: what was published loads byte for byte, or is refused naming the file at fault."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import CheckpointCorrupt, Invalid, NotFound, Unavailable
from app.lm import store as stores

FIELDS = {
    "kind": "full",
    "model_class": "LlamaForCausalLM",
    "parameters": 7,
    "mask_token": "<mask>",
    "mask_id": 3,
    "context_length": 64,
}
CONTENT = {"model.safetensors": b"weights" * 50, "config.json": b"{}", "tokenizer.json": b"[1]"}


def stage(store: Path, content: dict[str, bytes] = CONTENT, name: str = "one.1") -> Path:
    folder = stores.staging_folder(store, name)
    for file, data in content.items():
        (folder / file).write_bytes(data)
    return folder


def published(store: Path) -> tuple[str, Path]:
    folder = stage(store)
    digest = stores.seal(folder, **FIELDS)
    assert stores.publish(store, folder) == digest
    return digest, stores.path_of(store, digest)


def test_a_published_checkpoint_is_verified_read_only_and_named_by_its_manifest(tmp_path: Path):
    digest, path = published(tmp_path)
    manifest = stores.verify(tmp_path, digest)
    assert manifest == stores.manifest_of(tmp_path, digest)
    assert (manifest.kind, manifest.mask_id, set(manifest.files)) == ("full", 3, set(CONTENT))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == CONTENT | {
        "manifest.json": (path / "manifest.json").read_bytes()
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o555
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o444}
    assert not (tmp_path / "staging" / "one.1").exists()


def test_the_same_content_has_the_same_digest_and_publishes_twice(tmp_path: Path):
    digest, path = published(tmp_path)
    again = stage(tmp_path, name="two.1")
    assert stores.seal(again, **FIELDS) == digest
    assert stores.publish(tmp_path, again) == digest
    assert not again.exists()
    assert [entry.name for entry in (tmp_path / "objects").iterdir()] == [digest]
    assert stores.verify(tmp_path, digest).files.keys() == CONTENT.keys()
    assert path.is_dir()


def test_publishing_over_a_damaged_copy_is_refused(tmp_path: Path):
    _, path = published(tmp_path)
    (path / "config.json").chmod(0o644)
    (path / "config.json").write_bytes(b"{ }")
    again = stage(tmp_path, name="two.1")
    stores.seal(again, **FIELDS)
    with pytest.raises(CheckpointCorrupt, match=r"config\.json"):
        stores.publish(tmp_path, again)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from([*CONTENT, "manifest.json"]),
    place=st.integers(min_value=0, max_value=10_000),
    bit=st.integers(min_value=0, max_value=7),
    how=st.sampled_from(["flip", "truncate", "append", "remove", "link"]),
)
def test_any_change_to_any_file_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, name: str, place: int, bit: int, how: str
):
    root = tmp_path_factory.mktemp("store")
    digest, path = published(root)
    path.chmod(0o755)
    victim = path / name
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    if how == "flip":
        data[place % len(data)] ^= 1 << bit
    elif how == "truncate":
        del data[place % len(data) :]
    elif how == "append":
        data += b"\n"
    if how == "remove":
        victim.unlink()
    elif how == "link":
        victim.rename(root / "elsewhere")
        victim.symlink_to(root / "elsewhere")
    else:
        victim.write_bytes(data)
    with pytest.raises(CheckpointCorrupt, match=name.replace(".", r"\.")):
        stores.verify(root, digest)


@pytest.mark.parametrize("name", ["extra.json", "tokenizer_config.json", "modeling_evil.py"])
def test_an_added_file_is_refused_by_name(tmp_path: Path, name: str):
    digest, path = published(tmp_path)
    path.chmod(0o755)
    (path / name).write_bytes(b"{}")
    with pytest.raises(CheckpointCorrupt, match=name):
        stores.verify(tmp_path, digest)


def test_an_added_folder_is_refused_by_name(tmp_path: Path):
    digest, path = published(tmp_path)
    path.chmod(0o755)
    (path / "deep").mkdir()
    with pytest.raises(CheckpointCorrupt, match="deep"):
        stores.verify(tmp_path, digest)


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "modeling.py", "a.pkl", "model.safetensors~"]
)
def test_only_known_names_can_be_sealed(tmp_path: Path, name: str):
    folder = stage(tmp_path, CONTENT | {name: b"x"})
    with pytest.raises(Invalid, match=name):
        stores.seal(folder, **FIELDS)
    assert not (folder / "manifest.json").exists()


def test_a_link_cannot_be_sealed(tmp_path: Path):
    folder = stage(tmp_path)
    (folder / "recipe.json").symlink_to("/etc/hostname")
    with pytest.raises(Invalid, match=r"recipe\.json"):
        stores.seal(folder, **FIELDS)


@pytest.mark.parametrize(
    "digest", ["..", "../staging", "v7", "", "A" * 64, "0" * 63, "0" * 64 + "\n"]
)
def test_only_a_digest_becomes_a_path(tmp_path: Path, digest: str):
    with pytest.raises(NotFound):
        stores.path_of(tmp_path, digest)
    with pytest.raises(NotFound):
        stores.verify(tmp_path, "0" * 64)


def test_a_manifest_cannot_name_files_outside(tmp_path: Path):
    folder = stage(tmp_path)
    stores.seal(folder, **FIELDS)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../../secret"] = manifest["files"]["config.json"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointCorrupt, match="secret"):
        stores.publish(tmp_path, folder)


@pytest.mark.parametrize(
    "fields", [{"kind": "adapter"}, {"root": "0" * 64}, {"parent": "v3"}, {"recipe": 3}]
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path: Path, fields: dict[str, object]):
    folder = stage(tmp_path)
    with pytest.raises(ValueError, match="Manifest"):
        stores.seal(folder, **FIELDS | fields)
    assert not (folder / "manifest.json").exists()


def test_a_full_disk_is_said_clearly(tmp_path: Path):
    stores.need_space(tmp_path, 1)
    with pytest.raises(Unavailable, match="MiB of free disk"):
        stores.need_space(tmp_path, 1 << 60)


CRASH = """
import os, sys
from pathlib import Path
sys.path[:0] = [{here!r}]
from app.lm import store as stores
from tests.lm.test_store import FIELDS, stage
calls = 0
def dying(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == {step}:
            os._exit(9)
        return function(*args, **kwargs)
    return call
os.fsync, Path.rename, Path.chmod = dying(os.fsync), dying(Path.rename), dying(Path.chmod)
folder = stage(Path({store!r}))
stores.seal(folder, **FIELDS)
stores.publish(Path({store!r}), folder)
"""


@pytest.mark.parametrize("step", range(1, 14))
def test_dying_at_any_step_leaves_nothing_loadable_but_a_whole_checkpoint(
    tmp_path: Path, step: int
):
    here = str(Path(__file__).parents[2])
    code = CRASH.format(here=here, store=str(tmp_path), step=step)
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=here).returncode == 9
    objects = tmp_path / "objects"
    for folder in objects.iterdir() if objects.exists() else []:
        stores.verify(tmp_path, folder.name)
    folder = stage(tmp_path, name="two.1")
    digest = stores.seal(folder, **FIELDS)
    assert stores.publish(tmp_path, folder) == digest
    assert stat.S_IMODE(stores.path_of(tmp_path, digest).stat().st_mode) == 0o555
