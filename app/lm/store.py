"""The checkpoint store: immutable folders, each named by the SHA-256 of its manifest.

A checkpoint is staged, sealed (every file durable, the manifest last), then renamed to its digest:
a process that dies anywhere in between leaves nothing under ``objects`` that could be loaded.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.crash import crash_point
from app.errors import CheckpointCorrupt, Invalid, NotFound, Unavailable

MANIFEST = "manifest.json"
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
# Data only: nothing here is code or pickle, whatever a base model's folder may hold.
FILE_NAME = re.compile(
    r"(?:model(?:-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|adapter_model\.safetensors|adapter_config\.json|config\.json|generation_config\.json"
    r"|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja"
    r"|recipe\.json|metrics\.jsonl|reference\.jsonl)\Z"
)


class File(BaseModel):
    """One file of a checkpoint as it must be found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0, description="Bytes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a checkpoint is and which files it holds; its bytes' SHA-256 is the digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: Literal["full", "adapter"]
    root: str | None = Field(None, description="Digest that an adapter lies over; full: none")
    parent: str | None = Field(None, description="Digest that it was trained from; base: none")
    architecture: Literal["causal", "diffusion"] = "causal"
    model_class: str = Field(description="Native transformers class, for example LlamaForCausalLM")
    parameters: int = Field(ge=1, description="Weights of the whole model, root included")
    mask_token: str = Field(description="Stands for a hidden token; one id in this tokenizer")
    mask_id: int = Field(ge=0)
    context_length: int = Field(ge=1, description="Most tokens of prompt and answer together")
    recipe: dict[str, Any] | None = Field(None, description="How it was trained; base: none")
    update_id: str | None = None
    token: int | None = Field(None, description="Fencing token of the attempt that made it")
    notes: dict[str, str] = Field({}, description="How a base model was imported")
    files: dict[str, File]

    @field_validator("root", "parent")
    @classmethod
    def _is_digest(cls, value: str | None) -> str | None:
        if value is not None and not DIGEST.match(value):
            raise ValueError("is no digest")
        return value

    @field_validator("files")
    @classmethod
    def _has_allowed_names(cls, value: dict[str, File]) -> dict[str, File]:
        for name in value:
            if not FILE_NAME.match(name):
                raise ValueError(f"{name!r} has no place in a checkpoint")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> "Manifest":
        if (self.kind == "adapter") != (self.root is not None):
            raise ValueError("an adapter names its root, and only an adapter does")
        needed = "config.json" if self.kind == "full" else "adapter_config.json"
        weights = "model" if self.kind == "full" else "adapter_model"
        if needed not in self.files or not any(
            name.startswith(weights) and name.endswith(".safetensors") for name in self.files
        ):
            raise ValueError(f"a checkpoint of kind {self.kind} needs {needed} and its weights")
        return self


def path_of(store: Path, digest: str) -> Path:
    """Return a checkpoint's folder; ``NotFound`` when the digest is none or names nothing."""
    if not DIGEST.match(digest):
        raise NotFound(f"{digest[:80]!r} is no checkpoint digest.")
    folder = store / "objects" / digest
    if not folder.is_dir() or folder.is_symlink():
        raise NotFound(f"There is no checkpoint {digest}.")
    return folder


def staging_folder(store: Path, name: str) -> Path:
    """Make (if needed) and return a folder on the same file system as the checkpoints."""
    folder = store / "staging" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def need_space(store: Path, size: int) -> None:
    """Raise ``Unavailable`` unless the store's file system has ``size`` bytes free."""
    store.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(store).free
    if free < size:
        raise Unavailable(
            f"The checkpoint store {store} needs {size / 2**20:,.0f} MiB of free disk"
            f" but has {free / 2**20:,.0f} MiB."
        )


def seal(folder: Path, **fields: Any) -> str:
    """Make a staged folder's files durable and write its manifest last; return the digest.

    ``fields`` are the manifest's, less ``format`` and ``files``. ``Invalid`` when the folder holds
    anything that has no place in a checkpoint.
    """
    files = {}
    for name in _file_names(folder, Invalid):
        if not FILE_NAME.match(name):
            raise Invalid(f"{name} has no place in a checkpoint.")
        _sync(folder / name)
        files[name] = _measure(folder / name)
    crash_point("sealing")
    manifest = Manifest(**fields, files=files)
    raw = manifest.model_dump_json(indent=1).encode()
    (folder / MANIFEST).write_bytes(raw)
    crash_point("sealed")
    _sync(folder / MANIFEST)
    _sync(folder)
    return hashlib.sha256(raw).hexdigest()


def publish(store: Path, folder: Path) -> str:
    """Verify a sealed folder and move it to its digest; return the digest.

    Publishing what is there already verifies that copy and drops the new one. The folder must lie
    on the store's file system. ``CheckpointCorrupt`` names the file that is wrong.
    """
    digest, _ = _inspect(folder)
    objects = store / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    target = objects / digest
    for name in [*_file_names(folder), MANIFEST]:
        (folder / name).chmod(0o444)
    crash_point("storing")
    try:
        folder.rename(target)  # fails on a folder that isn't empty: never overwrites
    except OSError:
        if not target.is_dir():
            raise
        verify(store, digest)
        shutil.rmtree(folder)
    crash_point("stored")
    _sync(objects)
    _sync(folder.parent)
    target.chmod(0o555)
    return digest


def manifest_of(store: Path, digest: str) -> Manifest:
    """Read a published manifest and check it against its digest; the files are not looked at."""
    found, manifest = _read_manifest(path_of(store, digest))
    if found != digest:
        raise CheckpointCorrupt(f"{MANIFEST} of checkpoint {digest} was changed.")
    return manifest


def verify(store: Path, digest: str) -> Manifest:
    """Check every byte of a published checkpoint; ``CheckpointCorrupt`` names the bad file."""
    manifest = manifest_of(store, digest)
    _inspect(path_of(store, digest))
    return manifest


def _inspect(folder: Path) -> tuple[str, Manifest]:
    digest, manifest = _read_manifest(folder)
    where = f"of checkpoint {digest}"
    present = set(_file_names(folder))
    for name in sorted(present - set(manifest.files)):
        raise CheckpointCorrupt(f"{name} {where} is not in its manifest.")
    for name, expected in manifest.files.items():
        if name not in present:
            raise CheckpointCorrupt(f"{name} {where} is missing.")
        if _measure(folder / name) != expected:
            raise CheckpointCorrupt(f"{name} {where} was changed.")
    return digest, manifest


def _read_manifest(folder: Path) -> tuple[str, Manifest]:
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise CheckpointCorrupt(f"{MANIFEST} is missing in {folder}.")
    raw = path.read_bytes()
    try:
        return hashlib.sha256(raw).hexdigest(), Manifest.model_validate_json(raw)
    except ValidationError as error:
        problem = error.errors()[0]
        field = ".".join(str(part) for part in problem["loc"])
        raise CheckpointCorrupt(f"{MANIFEST} in {folder}: {field} {problem['msg']}.") from None


def _file_names(folder: Path, error: type[Exception] = CheckpointCorrupt) -> Iterable[str]:
    """Return the names beside the manifest, sorted; raise ``error`` on all but plain files."""
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise error(f"{entry.name} in {folder} is a link or folder, not a plain file.")
            if entry.name != MANIFEST:
                names.append(entry.name)
    return sorted(names)


def _measure(path: Path) -> File:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return File(size=os.fstat(stream.fileno()).st_size, sha256=digest)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
