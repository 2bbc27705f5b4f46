"""The three processes of a deployment, and the commands that become one of them."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from app.cli.console import load_settings, out
from app.cli.prepare import lock, prepare
from app.config import Settings


@dataclass(frozen=True)
class Program:
    """A process to run: what `up` calls it and its command line."""

    name: str
    command: list[str]


def api_program(settings: Settings) -> Program:
    """Serve HTTP; streams in flight get five seconds when it stops."""
    command = ["uvicorn", "app.main:create_app", "--factory", "--host", settings.host]
    command += ["--port", str(settings.port), "--timeout-graceful-shutdown", "5"]
    command += ["--http", "app.protocol:HttpProtocol", "--no-server-header", "--no-access-log"]
    return Program("api", [sys.executable, "-m", *command])


def engine_program(settings: Settings) -> Program:
    """Hold models and answer."""
    options = {
        "store": settings.store,
        "host": settings.engine_host,
        "port": settings.engine_port,
        "threads": settings.engine_threads,
        "memory-mb": settings.engine_memory_mb,
        "max-batch": settings.max_batch,
        "deadline-s": settings.engine_timeout_s,
        "default-tokens": settings.max_tokens,
    }
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return Program("engine", [sys.executable, "-m", "app.lm.server", *given])


def worker_program(settings: Settings) -> Program:
    """Run updates, one at a time."""
    del settings  # it reads them from the environment
    command = ["celery", "-A", "tasks.worker", "worker", "--pool", "threads", "-c", "1"]
    command += ["--loglevel", "info", "--without-gossip", "--without-mingle"]
    return Program("worker", [sys.executable, "-m", *command])


def environment(settings: Settings) -> Mapping[str, str]:
    """Return the environment in which a child reads exactly these settings."""
    values = settings.model_dump(exclude_none=True)
    values["data_dir"] = settings.data_dir.absolute()
    given = {f"ALMANAC_{name.upper()}": str(value) for name, value in values.items()}
    return {**os.environ, **given, "PYTHONUNBUFFERED": "1"}


def migrate() -> None:
    """Prepare the database, the store and the first key; harmless when repeated."""
    settings = load_settings()
    with lock(settings):
        prepare(settings)
    out.print(f"Ready to start; the admin key is in {settings.data_dir / 'admin.key'}.")


def api() -> None:
    """Serve HTTP (one of the three processes)."""
    _become(api_program)


def engine() -> None:
    """Hold models and answer (one of the three processes)."""
    _become(engine_program)


def worker() -> None:
    """Run updates (one of the three processes)."""
    _become(worker_program)


def _become(program_of: Callable[[Settings], Program]) -> NoReturn:
    settings = load_settings()
    program = program_of(settings)
    os.execve(sys.executable, program.command, environment(settings))  # noqa: S606 - no shell meant
