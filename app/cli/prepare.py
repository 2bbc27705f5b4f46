"""Makes a deployment ready to start: folders, schema, base model, first key.

Every step finds what an earlier run left, finished or not, so it may be killed anywhere and run
again. Against one database it runs in one place at a time: `lock` sees to it on one machine.
"""

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic.util import CommandError
from sqlalchemy import select

from app.backup import private
from app.cli.console import Stop
from app.cli.lifeline import die_with
from app.config import Settings
from app.db import Database
from app.errors import DomainError
from app.lm.store import manifest_of
from app.migrate import migrate
from app.models import Checkpoint, Key
from app.services import checkpoints, keys
from app.services.audit import SYSTEM

ADMIN = "first admin"


@contextlib.contextmanager
def lock(settings: Settings) -> Iterator[None]:
    """Own the data folder, made if need be, for as long as this process lives; Stop if taken."""
    folder = settings.data_dir
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = (folder / "lock").open("a")
    except OSError as error:
        raise Stop(f"The data directory {folder} can't be used: {error.strerror}.") from None
    with file:  # closing it gives the lock back; the kernel does where the process is killed
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Stop(f"Another `almanac` is using the data directory {folder}.") from None
        yield


def prepare(settings: Settings) -> None:
    """Bring the data folder and the database to where the processes can start."""
    try:
        migrate(settings.database)
    except CommandError as error:
        raise Stop(f"The database can't be brought to this release's schema: {error}") from None
    database = Database(settings.database)
    try:
        if not has_base(database, settings):
            base = import_base(settings)
            with database.transaction() as session:
                checkpoints.register_base(session, **base)
        write_first_key(database, settings.data_dir / "admin.key")
    finally:
        database.close()


def has_base(database: Database, settings: Settings) -> bool:
    """Say whether version 0 is what the settings name, by what its import noted.

    A newer release may ship another starter, or convert a model in another way; what a deployment
    began with stays its base. A folder can hold anything by now, so it is looked at again.
    """
    with database.reading() as session:
        base = session.get(Checkpoint, 0)
    source = f"hub:{settings.base_model}@{settings.base_revision}"
    source = "starter" if settings.base_model == "starter" else source
    try:
        notes = manifest_of(settings.store, base.digest).notes if base else {}
    except DomainError:  # its files are gone, or torn
        return False
    return notes.get("source") == source


def import_base(settings: Settings) -> dict[str, Any]:
    """Put the base model into the store; return its digest, parameters and architecture.

    It runs in a process of its own: this one never loads torch."""
    command = [sys.executable, "-m", "app.lm.base", "--store", str(settings.store)]
    command += ["--model", settings.base_model]
    if settings.base_revision:
        command += ["--revision", settings.base_revision]
    end = die_with(os.getpid())  # safe: this process has one thread
    run = subprocess.run(command, capture_output=True, text=True, preexec_fn=end)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"status {run.returncode}"])[-1]
        raise Stop(f"The base model {settings.base_model} can't be imported: {last}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def write_first_key(database: Database, path: Path) -> None:
    """Make the first admin key unless there is one, readable by the owner alone.

    The file is written before the row is committed: a row without a file can't be, and a file
    without a row is replaced by the next run. A file that was moved away stays away.
    """
    with database.transaction() as session:
        if session.scalar(select(Key.id).where(Key.name == ADMIN).limit(1)):
            return
        _, secret = keys.create(session, SYSTEM, ADMIN, ["admin"])
        draft = path.with_suffix(".draft")
        with open(draft, "w", opener=private) as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
