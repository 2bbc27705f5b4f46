"""Backups: the database at one moment and every checkpoint that it names, in one tar file.

A backup is taken while the service runs. It is restored where nothing is yet: checkpoints first,
each verified against its digest, the database last, so that no row ever names what isn't there.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from sqlalchemy import URL, inspect, make_url, select, text
from sqlalchemy.orm import Session

from app.config import Settings
from app.db import Database
from app.errors import CheckpointCorrupt, Conflict, Invalid, NotFound, Unavailable
from app.lm import store
from app.models import Checkpoint

HEAD, DUMP = "backup.json", "database"
FORMAT = 1


def create(settings: Settings, target: Path) -> int:
    """Write a backup, readable by the owner alone; return how many checkpoints it holds.

    Raises `Conflict` where the file exists or a checkpoint was deleted meanwhile, and
    `CheckpointCorrupt` where one isn't as it was published.
    """
    if target.exists():
        raise Conflict(f"{target} exists already; a backup never overwrites a file.")
    part = target.with_name(f"{target.name}.part")
    try:
        digests = _write(settings, part)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.rename(target)
    return len(digests)


def _write(settings: Settings, part: Path) -> list[str]:
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".backup.") as folder:
        dump = Path(folder) / DUMP
        digests = _dump(settings, dump)
        head = Path(folder) / HEAD
        kind = make_url(settings.database).get_backend_name()
        described = {"format": FORMAT, "database": kind, "checkpoints": digests}
        head.write_text(json.dumps(described, indent=1))
        part.unlink(missing_ok=True)  # of a killed run, maybe one that others may read
        with (
            open(part, "xb", opener=private) as file,
            tarfile.open(fileobj=file, mode="w") as tar,
        ):
            tar.add(head, HEAD)
            tar.add(dump, DUMP)
            for digest in digests:
                _add_checkpoint(settings.store, digest, tar)
            tar.close()  # writes the end, which has to be durable too
            file.flush()
            os.fsync(file.fileno())
    return digests


def private(path: str, flags: int) -> int:
    """Open a file that its owner alone may read: an opener for `open`."""
    return os.open(path, flags, 0o600)


def restore(settings: Settings, source: Path) -> int:
    """Restore a backup where nothing is yet; return how many checkpoints it held.

    Raises `Conflict` where the data directory, store or database isn't empty or is of another
    kind, and `Invalid` where the file is no backup.
    """
    _refuse_used(settings)
    try:
        with tarfile.open(source) as tar:
            head = _read_head(tar)
            kind = make_url(settings.database).get_backend_name()
            if head["database"] != kind:
                raise Conflict(f"The backup is of {head['database']}, this database is {kind}.")
            with tempfile.TemporaryDirectory(dir=settings.data_dir, prefix=".restore.") as folder:
                dump = Path(folder) / DUMP
                _unpack_file(tar, tar.next(), DUMP, dump)
                for digest in head["checkpoints"]:
                    _unpack_checkpoint(tar, settings.store, digest)
                _load(settings, dump)
    except (tarfile.TarError, LookupError, ValueError, TypeError, EOFError) as error:
        raise Invalid(f"{source} is no whole backup: {error}") from error
    return len(head["checkpoints"])


def _dump(settings: Settings, target: Path) -> list[str]:
    """Write the database as of one moment; return the digests of that moment's checkpoints."""
    alive = select(Checkpoint.digest).where(Checkpoint.status.in_(("ready", "rejected")))
    alive = alive.order_by(Checkpoint.version)
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        if not Path(str(url.database)).is_file():
            raise Unavailable(f"There is no database {url.database}.")
        with (
            closing(sqlite3.connect(str(url.database))) as live,
            closing(sqlite3.connect(target)) as copy,
        ):
            live.backup(copy)
        with _reading(f"sqlite:///{target}") as connection:
            return list(connection.scalars(alive))
    with _reading(settings.database) as connection:
        # Rows and dump are of the same snapshot, whatever is committed meanwhile.
        snapshot = connection.scalars(text("SELECT pg_export_snapshot()")).one()
        digests = list(connection.scalars(alive))
        _run("pg_dump", url, "--format=custom", f"--snapshot={snapshot}", f"--file={target}")
    return digests


def _load(settings: Settings, dump: Path) -> None:
    url = make_url(settings.database)
    if url.get_backend_name() != "sqlite":
        options = ("--no-owner", "--no-acl", "--exit-on-error", "--single-transaction")
        _run("pg_restore", url, *options, str(dump))
        return
    path = Path(str(url.database))
    draft = path.with_name(f"{path.name}.restoring")  # a rename is whole only within a folder
    shutil.move(dump, draft)
    _sync(draft)
    draft.rename(path)
    _sync(path.parent)


def _add_checkpoint(folder: Path, digest: str, tar: tarfile.TarFile) -> None:
    try:
        manifest = store.verify(folder, digest)
        for name in [*manifest.files, store.MANIFEST]:
            path = store.path_of(folder, digest) / name
            tar.add(path, f"objects/{digest}/{name}")
    except (NotFound, FileNotFoundError):
        raise Conflict(
            f"Checkpoint {digest} isn't in the store (any more); run the backup again."
        ) from None


def _refuse_used(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    used = [path.name for path in settings.data_dir.iterdir() if path.name != "lock"]
    if used:
        raise Conflict(
            f"The data directory {settings.data_dir} isn't empty (it holds {used[0]}); "
            "a backup is restored into an empty one only."
        )
    if any(settings.store.glob("objects/*")):
        raise Conflict(f"The checkpoint store {settings.store} isn't empty.")
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite":
        if Path(str(url.database)).exists():
            raise Conflict(f"The database {url.database} exists already.")
        return
    database = Database(settings.database)
    try:
        if inspect(database.engine).get_table_names():
            raise Conflict(f"The database {url.database} isn't empty.")
    finally:
        database.close()


def _read_head(tar: tarfile.TarFile) -> Any:
    """Return what the first file of a backup says; the others come in the order that it gives."""
    file = _open(tar, tar.next(), HEAD)
    head = json.loads(file.read())
    if head["format"] != FORMAT:
        raise ValueError(f"its format is {head['format']}, not {FORMAT}")
    if not all(store.DIGEST.match(digest) for digest in head["checkpoints"]):
        raise ValueError("it names something that is no checkpoint")
    return head


def _unpack_checkpoint(tar: tarfile.TarFile, folder: Path, digest: str) -> None:
    """Publish the next checkpoint of a backup, if it is the one that its digest names."""
    staged = store.staging_folder(folder, f"restore.{digest}")
    try:
        name = ""
        while name != store.MANIFEST:  # packed last
            member = tar.next()
            name = member.name.rpartition("/")[2] if member else ""
            if name != store.MANIFEST and not store.FILE_NAME.match(name):
                raise ValueError(f"a file of checkpoint {digest} is missing or unknown: {name!r}")
            _unpack_file(tar, member, f"objects/{digest}/{name}", staged / name)
        if store.publish(folder, staged) != digest:
            raise CheckpointCorrupt(f"The backup's checkpoint {digest} isn't what its name says.")
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _unpack_file(
    tar: tarfile.TarFile, member: tarfile.TarInfo | None, name: str, path: Path
) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(_open(tar, member, name), target)
    _sync(path)


def _open(tar: tarfile.TarFile, member: tarfile.TarInfo | None, name: str) -> IO[bytes]:
    file = tar.extractfile(member) if member and member.name == name and member.isfile() else None
    if file is None:
        raise ValueError(f"{name} is missing")
    return file


def _run(program: str, url: URL, *options: str) -> None:
    """Run a program of Postgres; its last words, without the password, where it fails."""
    plain = url.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}
    command = [program, f"--dbname={plain}", *options]
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
    except FileNotFoundError:
        raise Unavailable(f"{program} isn't installed here.") from None
    if run.returncode:
        last = (run.stderr.strip().splitlines() or [f"status {run.returncode}"])[-1]
        raise Unavailable(f"{program} failed: {last}")


@contextmanager
def _reading(url: str) -> Iterator[Session]:
    """Open a session that sees one snapshot of a database."""
    database = Database(url)
    try:
        with database.reading() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield session
    finally:
        database.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
