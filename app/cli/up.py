"""``almanac up``: the whole service on this machine, under one process that keeps it running."""

import contextlib
import errno
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from app.cli.console import Stop, errors, load_settings, local_url, out
from app.cli.prepare import lock, prepare
from app.cli.processes import api_program, engine_program, environment, worker_program
from app.cli.supervisor import Child, stop_all
from app.config import Settings

LATE_S = 30.0  # after which it is said what is missing, and again after as long
STARTER = """\
The model is the shipped starter: it is small and knows an invented world only. To keep a real one
current, stop this and name a model (a folder, or a hub id with the hash of its commit as
ALMANAC_BASE_REVISION) and a data directory of its own:
  ALMANAC_BASE_MODEL=../my-model ALMANAC_DATA_DIR=data-my-model make up
"""
READY = """\

Almanac is ready at {url} (its API is described at {url}/docs).
{model}
Admin key: {key}
Try, in another terminal:
  make demo
  .venv/bin/almanac facts add "Kimberly Hamburn is the mayor of Valgate."
  .venv/bin/almanac ask "Who is the mayor of Valgate?"
Logs are in {logs}. Ctrl-C stops everything.
"""


def up() -> None:
    """Start api, engine and worker here and keep them running."""
    settings = load_settings()
    if settings.engine_kind == "almanac":
        url = local_url(settings.engine_host, settings.engine_port)
        settings = settings.model_copy(update={"engine_url": url})
    stop = threading.Event()
    with lock(settings):
        check_ports(settings)
        out.print("Preparing the database and the base model …")
        prepare(settings)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        with running(settings) as children:
            if wait_until_ready(settings, children, stop):
                announce(settings)
            while not stop.wait(0.2):
                for child in children:
                    child.look(errors.print)
            out.print("Stopping …")


@contextlib.contextmanager
def running(settings: Settings) -> Iterator[list[Child]]:
    """Start the processes; stop them in the end, however it comes."""
    logs = settings.data_dir / "logs"
    logs.mkdir(exist_ok=True)
    programs = [api_program(settings), worker_program(settings)]
    if settings.engine_kind == "almanac":
        programs.insert(0, engine_program(settings))
    children: list[Child] = []
    try:
        for program in programs:
            children.append(Child(program, logs, environment(settings)))  # noqa: PERF401 - kept if one fails
        yield children
    finally:
        stop_all(children)


def check_ports(settings: Settings) -> None:
    """Raise Stop when a port that is needed is taken."""
    needed = [(settings.host, settings.port, "ALMANAC_PORT")]
    if settings.engine_kind == "almanac":
        needed.append((settings.engine_host, settings.engine_port, "ALMANAC_ENGINE_PORT"))
    for host, port, name in needed:
        deadline = time.monotonic() + 2  # what a killed predecessor left may take a moment to go
        while not _is_free(host, port):
            if time.monotonic() > deadline:
                raise Stop(f"Port {port} on {host} is taken; choose another with {name}.")
            time.sleep(0.1)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise Stop(f"{host}:{port} can't be listened on: {error.strerror}.") from None
            return False
    return True


def wait_until_ready(settings: Settings, children: list[Child], stop: threading.Event) -> bool:
    """Wait for the service's own word; False if told to stop, Stop if a process ends meanwhile."""
    url = f"{local_url(settings.host, settings.port)}/readyz"
    late, missing = time.monotonic() + LATE_S, f"{url} doesn't answer"
    while not stop.wait(0.2):
        for child in children:
            if child.process.poll() is not None:
                raise Stop(f"The {child.name} didn't start: {child.last_words()} ({child.log}).")
        with contextlib.suppress(httpx.TransportError, ValueError):
            found = httpx.get(url, timeout=5, trust_env=False).json()
            if found.get("status") == "ready":
                return True
            checks = found.get("checks", {}).items()
            missing = "; ".join(f"{name}: {c['detail']}" for name, c in checks if not c["ok"])
        if time.monotonic() > late:
            errors.print(f"Not ready yet ({missing}); the logs are in {settings.data_dir}/logs.")
            late += LATE_S
    return False


def announce(settings: Settings) -> None:
    """Print where the service is, its key, and what to try."""
    path = settings.data_dir / "admin.key"
    try:
        key = f"{path.read_text().strip()} (kept in {path})"
    except OSError:
        key = f"not in {path} any more"
    starter = settings.base_model == "starter"
    model = STARTER if starter else f"The base model is {settings.base_model}.\n"
    brought = Path(settings.base_model, "reference.jsonl").is_file()
    if not (starter or brought or settings.reference_file):
        model += "What it forgets isn't measured: ALMANAC_REFERENCE_FILE names no questions.\n"
    text = READY.format(
        url=local_url(settings.host, settings.port),
        model=model,
        key=key,
        logs=settings.data_dir / "logs",
    )
    out.print(text, soft_wrap=True)
