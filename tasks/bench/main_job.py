"""Measure the main job on this machine: ``python -m tasks.bench.main_job``.

Starts ``almanac up`` on free ports over a temporary folder, teaches the example facts and prints
times, counts of right answers and the peak memory of each process. A second update is then hit by
``kill -9`` of the worker and has to finish on its own.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from app.cli.demo import FACTS, ask_all, count
from app.client import AlmanacClient, Event, Probe

START_S = 300
# The second update's: in-world like the examples, learned while its worker is killed.
LATER = ("Maren Oldfield is the mayor of Tornsee.", "The novel The Glass Orchard is by Ilya Brann.")


@contextmanager
def running(folder: Path) -> Iterator[tuple[int, str]]:
    """Run the service over a folder; yield the pid of ``almanac up`` and the address."""
    port, engine_port = free_port(), free_port()
    settings = {
        "ALMANAC_DATA_DIR": str(folder / "data"),
        "ALMANAC_PORT": str(port),
        "ALMANAC_ENGINE_PORT": str(engine_port),
    }
    with (folder / "up.log").open("w") as log:
        up = subprocess.Popen(
            [Path(sys.executable).with_name("almanac"), "up"],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
        )
    try:
        yield up.pid, f"http://127.0.0.1:{port}"
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str) -> None:
    """Wait for the service's own word; ``TimeoutError`` when it takes too long."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).json().get("status") == "ready":
                return
        except (httpx.TransportError, ValueError):
            pass
        time.sleep(0.1)
    raise TimeoutError(f"The service wasn't ready after {START_S} s.")


def find_processes(parent: int) -> dict[int, str]:
    """Map every process below ``parent`` to its command line."""
    found: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            above = int(re.findall(r"PPid:\s+(\d+)", (entry / "status").read_text())[0])
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, IndexError):  # it ended while it was read
            continue
        if above == parent:
            found |= {int(entry.name): command, **find_processes(int(entry.name))}
    return found


def peak_memory(parent: int) -> dict[str, int]:
    """Return the peak resident memory of each part below ``almanac up``, in MiB."""
    parts = {"app.lm.server": "engine", "app.main": "api", "tasks.worker": "worker"}
    peaks: dict[str, int] = {}
    for pid, command in find_processes(parent).items():
        name = next((part for word, part in parts.items() if word in command), None)
        status = Path(f"/proc/{pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+)", status)
        if name and peak:
            peaks[name] = max(peaks.get(name, 0), int(peak[1]) // 1024)
    return peaks


def kill_worker(parent: int) -> None:
    """Kill the worker's process below ``almanac up`` as nothing can prevent."""
    for pid, command in find_processes(parent).items():
        if "tasks.worker" in command:
            os.kill(pid, signal.SIGKILL)
            return
    raise ProcessLookupError("There is no worker to kill.")


def teach(client: AlmanacClient) -> None:
    """Post the example facts, ask at once, learn them, roll back and activate again."""
    given = [json.loads(line) for line in FACTS.read_text().splitlines()]
    probes = [Probe(**probe) for fact in given for probe in fact["probes"]]
    started = time.monotonic()
    facts = [item.fact for item in client.add_facts(given) if item.fact]
    answers = [client.ask(probe.question).answer for probe in probes]
    say("in context, at once", count(probes, answers))
    say("in the weights before", count(probes, ask_all(client, probes, 0)))
    waiting = [fact.id for fact in facts if fact.status in ("pending", "lapsed")]
    opened = client.start_update(fact_ids=waiting)
    update = client.wait_for_update(opened.id)
    say("POST to the update's end", f"{time.monotonic() - started:.0f} s")
    say("the update", f"version {update.version}, {update.outcome}: {'; '.join(update.reasons)}")
    if update.version is None:
        return
    say("in the weights after", count(probes, ask_all(client, probes, update.version)))
    metrics = client.get_checkpoint(update.version).metrics
    say("peak memory of the trainer", f"{metrics['peak_rss_mb']} MiB")
    if update.outcome != "activated":
        client.activate(update.version, "measured although it was held")
    started = time.monotonic()
    client.rollback("measured")
    say("rollback", f"{1000 * (time.monotonic() - started):.0f} ms")
    say("in the weights after rollback", count(probes, current_answers(client, probes)))
    client.activate(update.version, "measured")
    say("activated again", count(probes, current_answers(client, probes)))


def current_answers(client: AlmanacClient, probes: Sequence[Probe]) -> list[str]:
    """Ask every question of what is current, weights alone."""
    return ask_all(client, probes, None)


def survive(client: AlmanacClient, up: int) -> None:
    """Kill the worker in the middle of an update and see the update end."""
    opened = client.start_update(fact_ids=[client.add_fact({"text": one}).id for one in LATER])
    killed: list[float] = []

    def strike(event: Event) -> None:
        if not killed and event.data.get("phase") == "training":
            kill_worker(up)
            killed.append(time.monotonic())

    update = client.wait_for_update(opened.id, strike)
    after = f"{time.monotonic() - killed[0]:.0f} s after" if killed else "before"
    say("worker killed mid-update", f"the update {update.status} on its own {after} the kill")


def say(what: str, figure: str) -> None:
    """Print one row of the table."""
    sys.stdout.write(f"| {what} | {figure} |\n")
    sys.stdout.flush()


def main() -> None:
    """Run every measurement and print the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.monotonic()
        with running(folder) as (up, url):
            wait_until_ready(url)
            say("`up` ready", f"{time.monotonic() - started:.1f} s")
            key = (folder / "data" / "admin.key").read_text().strip()
            with AlmanacClient(url, key) as client:
                teach(client)
                for part, peak in sorted(peak_memory(up).items()):
                    say(f"peak memory of the {part}", f"{peak} MiB")
                survive(client, up)


if __name__ == "__main__":
    main()
