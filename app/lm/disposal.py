"""Checkpoints that are no longer needed: found, measured, removed (torch-free)."""

import shutil
from contextlib import suppress
from pathlib import Path

from app.errors import NotFound
from app.lm.store import DIGEST, manifest_of


def size_of(store: Path, digest: str) -> int:
    """Return a checkpoint's bytes, its root's included; 0 where it isn't here."""
    try:
        manifest = manifest_of(store, digest)
    except NotFound:
        return 0
    own = sum(file.size for file in manifest.files.values())
    return own + (size_of(store, manifest.root) if manifest.root else 0)


def list_digests(store: Path) -> list[str]:
    """Return the digest of every published checkpoint, and of those that are half removed."""
    found = [*store.glob("objects/*"), *store.glob("trash/*")]
    return [path.name for path in found if DIGEST.match(path.name)]


def discard(store: Path, digest: str) -> None:
    """Remove a checkpoint: out of sight in one step, then its files; harmless when repeated.

    Whoever has its files open goes on reading them.
    """
    folder, trash = store / "objects" / digest, store / "trash" / digest
    trash.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        folder.chmod(0o755)  # a folder that moves has to be writable
        if trash.exists():
            shutil.rmtree(trash)
        folder.rename(trash)
    with suppress(FileNotFoundError):
        shutil.rmtree(trash)
