"""Import a base model into the checkpoint store: ``python -m app.lm.base``.

Torch is loaded only when there is something to convert; a model that was imported before is found
again by its files' names, sizes and times.
"""

import argparse
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

from app.errors import DomainError, Invalid, NotFound
from app.lm import store as stores

STARTER = Path(__file__).parent / "starter"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*\Z")
_REVISION = re.compile(r"[0-9a-f]{40}\Z")
_WANTED = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
    "vocab.json",
    "merges.txt",
]


def import_base(store: Path, model: str, revision: str = "") -> str:
    """Import ``starter``, a local folder or a hub model; return its digest.

    The same files always give the same digest. A hub model is downloaded only when it is named by
    its id, with ``revision`` a commit hash. ``Invalid`` says in a sentence what can't be imported;
    then nothing is left in the store.
    """
    folder, source = _find(model, revision)
    record = store / "bases" / _fingerprint(folder, source)
    if record.is_file():
        try:
            stores.path_of(store, digest := record.read_text())
            return digest
        except NotFound:  # deleted since, or the record is torn: import again
            pass
    weights = _check(folder, model)
    stores.need_space(store, sum(path.stat().st_size for path in weights) + 2**26)
    from app.lm.conversion import convert

    staged = stores.staging_folder(store, f"base.{record.name[:16]}")
    shutil.rmtree(staged)
    staged.mkdir()
    try:
        convert(folder, staged, model, source)
        digest = stores.publish(store, staged)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    record.parent.mkdir(exist_ok=True)
    record.write_text(digest)
    return digest


def _find(model: str, revision: str) -> tuple[Path, str]:
    """Return the model's folder, and where it is from as the manifest records it."""
    if model == "starter":
        if not STARTER.is_dir():
            raise Invalid("This installation has no starter model: name a folder or a hub id.")
        return STARTER, "starter"
    if Path(model).is_dir():
        return Path(model), "folder"
    if not _HUB_ID.match(model):
        raise Invalid(f"The base model {model!r} is neither 'starter', a folder nor a hub id.")
    if not _REVISION.match(revision):
        raise Invalid(
            f"A hub model needs a pinned revision: the commit hash (40 hex digits) of {model}."
        )
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(model, revision=revision, allow_patterns=_WANTED)
    except Exception as error:  # its errors have no common class
        raise Invalid(f"{model} can't be downloaded: {_first_line(error)}") from error
    return Path(found), f"hub:{model}@{revision}"


def _fingerprint(folder: Path, source: str) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr((str(folder.resolve()), source, seen)).encode()).hexdigest()


def _check(folder: Path, model: str) -> list[Path]:
    """Refuse what Almanac never loads; return the weights' files."""
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise Invalid(f"{model} has no {name}.")
        try:
            fields = json.loads((folder / name).read_text())
        except ValueError:
            raise Invalid(f"{name} of {model} is no JSON.") from None
        if not isinstance(fields, dict) or "auto_map" in fields:
            raise Invalid(
                f"{name} of {model} asks to run the model's own code (auto_map);"
                " only classes that transformers brings itself are loaded."
            )
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        others = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        why = ", only pickled ones, which are never loaded" if others else ""
        raise Invalid(f"{model} has no safetensors weights{why}.")
    return weights


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def main(arguments: list[str] | None = None) -> int:
    """Import the named model and print one JSON line; on an error one sentence and status 2."""
    parser = argparse.ArgumentParser(prog="python -m app.lm.base", description=__doc__)
    parser.add_argument("--store", type=Path, required=True, help="checkpoint store's folder")
    parser.add_argument("--model", default="starter", help="starter, a folder, or a hub id")
    parser.add_argument("--revision", default="", help="commit hash that pins a hub model")
    given = parser.parse_args(arguments)
    try:
        digest = import_base(given.store, given.model, given.revision)
        manifest = stores.manifest_of(given.store, digest)
    except (DomainError, OSError) as error:
        sys.stderr.write(f"{_first_line(error)}\n")
        return 2
    answer = {
        "digest": digest,
        "parameters": manifest.parameters,
        "architecture": manifest.architecture,
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
