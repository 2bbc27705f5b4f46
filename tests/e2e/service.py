"""`almanac up` as a person runs it: real processes, real files, stopped by signals."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from app.client import AlmanacClient

ALMANAC = Path(sys.executable).parent / "almanac"
# Short leases: a killed worker's update is taken back in seconds. The tests start their updates
# themselves: one opened of itself would take their facts before they do.
SETTINGS = {
    "ALMANAC_TICK_S": "0.3",
    "ALMANAC_LEASE_S": "4",
    "ALMANAC_HEARTBEAT_S": "1",
    "ALMANAC_BATCH_WAIT_S": "3600",
}


class Service:
    """One deployment in a folder of its own, started and stopped at will."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.settings = {
            **{name: value for name, value in os.environ.items() if "ALMANAC_" not in name},
            **SETTINGS,
            **settings,
            "ALMANAC_DATA_DIR": str(folder / "data"),
            "ALMANAC_PORT": str(free_port()),
            "ALMANAC_ENGINE_PORT": str(free_port()),
        }
        self.url = f"http://127.0.0.1:{self.settings['ALMANAC_PORT']}"

    def start(self) -> float:
        """Run `almanac up` and return the seconds until it said that it is ready."""
        started = time.monotonic()
        with (self.folder / "up.log").open("w") as log:
            self.process = subprocess.Popen(
                [ALMANAC, "up"], cwd=self.folder, env=self.settings, stdout=log, stderr=log
            )
        wait_until(self.is_ready, 180)
        return time.monotonic() - started

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.said()
        return "Almanac is ready" in self.said()

    def said(self) -> str:
        return (self.folder / "up.log").read_text()

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.terminate()
        return self.process.wait(60)

    def client(self) -> AlmanacClient:
        key = (self.folder / "data/admin.key").read_text().strip()
        return AlmanacClient(self.url, key)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the CLI against this service."""
        return subprocess.run(
            [ALMANAC, *arguments],
            cwd=self.folder,
            env={**self.settings, "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def processes(self, *words: str) -> dict[int, str]:
        """Find this deployment's processes, by pid, whose command lines hold these words."""
        return {
            pid: command
            for pid, command in _commands()
            if all(word in command for word in words) and str(self.folder) in _environment(pid)
        }

    def kill(self, *words: str) -> None:
        """Kill -9 the one process whose command line holds these words."""
        (pid,) = self.processes(*words)
        os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(happens: Callable[[], object], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.1)


def _commands() -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if text:
                yield int(folder.name), text.replace(b"\0", b" ").decode(errors="replace")


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""
