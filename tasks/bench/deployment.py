"""An engine and API processes over a folder of their own, for benchmarks; a worker on demand."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from safetensors.torch import load_file, save_file

from app.cli.prepare import prepare
from app.cli.processes import api_program, engine_program, environment, worker_program
from app.cli.supervisor import Child, stop_all
from app.config import Settings
from app.db import Database
from app.lm import store
from app.models import Checkpoint
from tasks.bench.figures import REFERENCE
from tasks.bench.main_job import free_port

NOISE = 1.0  # of each matrix's spread: every version says something else, if no sense
START_S = 120.0
EXAMS = 60  # reference questions of an update: so few that it ends in time


@dataclass
class Deployment:
    """What runs: one engine, several APIs, the versions' digests; ended processes start again."""

    settings: Settings
    digests: list[str]
    engine: Child
    apis: list[Child]
    urls: list[str]
    key: str
    _changes: int = 0

    def headers(self) -> dict[str, str]:
        """Return what authorises a request."""
        return {"Authorization": f"Bearer {self.key}"}

    async def activate(self, version: int) -> None:
        """Make a version current."""
        await self._change(f"checkpoints/{version}/activate")

    async def roll_back(self) -> None:
        """Go back to the version before."""
        await self._change("rollback")

    async def _change(self, path: str) -> None:
        self._changes += 1
        url = self.urls[self._changes % len(self.urls)]
        async with httpx.AsyncClient(headers=self.headers(), timeout=60) as http:
            answer = await http.post(f"{url}/v1/{path}", json={"reason": "bench"})
        answer.raise_for_status()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run a worker meanwhile."""
        folder = self.settings.data_dir / "logs"
        worker = Child(worker_program(self.settings), folder, environment(self.settings))
        try:
            yield
        finally:
            stop_all([worker])

    def kill_engine(self) -> None:
        """Kill the engine's process as hard as can be."""
        os.kill(self.engine.process.pid, signal.SIGKILL)

    def memory_mb(self) -> dict[str, float]:
        """Return the resident memory of the engine and of the first API process, MiB."""
        children = {"engine": self.engine, "api": self.apis[0]}
        return {name: rss_mb(child.process.pid) for name, child in children.items()}


def rss_mb(pid: int) -> float:
    """Return a process's resident memory, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@contextmanager
def deployed(folder: Path, versions: int, apis: int, threads: int) -> Iterator[Deployment]:
    """Run a deployment whose version 0 is the starter and whose others are noisy copies of it."""
    engine_port = free_port()
    settings = Settings(
        data_dir=folder,
        engine_port=engine_port,
        engine_url=f"http://127.0.0.1:{engine_port}",
        engine_threads=threads,
        engine_timeout_s=60,
        reference_file=folder / "reference.jsonl",
        _env_file=None,
    )
    rows = REFERENCE.read_text().splitlines(keepends=True)
    (folder / "reference.jsonl").write_text("".join(rows[:EXAMS]))
    prepare(settings)
    digests = add_versions(settings, versions)
    programs = [settings.model_copy(update={"port": free_port()}) for _ in range(apis)]
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    engine = Child(engine_program(settings), logs, environment(settings))
    children = [Child(api_program(given), logs, environment(given)) for given in programs]
    urls = [f"http://127.0.0.1:{given.port}" for given in programs]
    key = (folder / "admin.key").read_text().strip()
    done = threading.Event()
    watch = threading.Thread(target=_keep, args=([engine, *children], done))
    try:
        for url in urls:
            _wait(url)
        watch.start()
        yield Deployment(settings, digests, engine, children, urls, key)
    finally:
        done.set()
        with suppress(RuntimeError):  # never started
            watch.join()
        stop_all([engine, *children])


def add_versions(settings: Settings, count: int) -> list[str]:
    """Publish noisy copies of version 0 as versions 1, 2, …; return every digest."""
    database = Database(settings.database)
    try:
        with database.transaction() as session:
            digests = [session.get_one(Checkpoint, 0).digest]
            for version in range(1, count):
                digests.append(_publish_noisy(settings.store, digests[0], version))
                row = Checkpoint(version=version, digest=digests[-1], kind="full", parent=0)
                session.add(row)
                session.flush()
    finally:
        database.close()
    return digests


def _publish_noisy(folder: Path, base: str, seed: int) -> str:
    manifest = store.manifest_of(folder, base)
    source, target = store.path_of(folder, base), store.staging_folder(folder, f"bench.{seed}")
    for name in manifest.files:
        shutil.copyfile(source / name, target / name)
    generator = torch.Generator().manual_seed(seed)
    for path in target.glob("model*.safetensors"):
        weights = load_file(path)
        for name, weight in weights.items():
            if weight.ndim == 2 and "embed" not in name:
                noise = torch.randn(weight.shape, generator=generator)
                weights[name] = (weight + NOISE * weight.float().std() * noise).to(weight.dtype)
        save_file(weights, path, {"format": "pt"})
    fields = manifest.model_dump(exclude={"format", "files"})
    store.seal(target, **fields | {"parent": base, "notes": {"noise": str(seed)}})
    return store.publish(folder, target)


def _keep(children: list[Child], done: threading.Event) -> None:
    while not done.wait(0.1):
        for child in children:
            child.look(lambda _: None)


def _wait(url: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError, json.JSONDecodeError):
            if httpx.get(f"{url}/readyz", timeout=5).json()["status"] == "degraded":
                return  # no worker is meant to be seen
        time.sleep(0.2)
    raise SystemExit(f"{url} isn't ready after {START_S:.0f} s")
