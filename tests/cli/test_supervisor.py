"""Child processes that end, refuse to end, or lose their parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.cli.processes import Program
from app.cli.supervisor import Child, stop_all

ROOT = Path(__file__).parents[2]
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf'); time.sleep(600)"
ORPHAN = """
import os, time
from pathlib import Path
from app.cli.processes import Program
from app.cli.supervisor import Child
child = Child(Program("sleeper", ["sleep", "600"]), Path({logs!r}), os.environ)
print(child.process.pid, flush=True)
time.sleep(600)
"""


def wait_until(happens: Callable[[], object], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline, "it didn't happen"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def make(*command: str) -> Child:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        children.append(Child(Program("thing", list(command)), tmp_path, environment))
        return children[-1]

    yield make
    stop_all(children, grace_s=0)


def test_a_child_that_ends_is_started_again_and_said_so_once(
    start: Callable[..., Child],
) -> None:
    child, said = start("sh", "-c", "echo once more; exit 3"), []
    wait_until(lambda: child.look(said.append) or len(said) == 2)
    assert "ended with status 3; it starts again in 1 s" in said[0]
    assert "in 2 s" in said[1]
    assert child.log.read_text() == "once more\n" * 2
    assert child.last_words() == "once more"


def test_a_killed_child_is_named_by_its_signal(start: Callable[..., Child]) -> None:
    child, said = start("sleep", "600"), []
    child.process.kill()
    wait_until(lambda: child.look(said.append) or said)
    assert "The thing was killed by signal 9" in said[0]


def test_a_deaf_child_is_killed_with_its_group(start: Callable[..., Child]) -> None:
    child = start(
        "sh", "-c", f'trap "" TERM; sleep 600 & echo $!; "{sys.executable}" -c "{STUBBORN}"'
    )
    wait_until(lambda: "deaf" in child.log.read_text())
    sleeper = int(child.log.read_text().split()[0])
    stop_all([child], grace_s=0.2)
    assert child.process.returncode == -signal.SIGKILL
    wait_until(lambda: not is_alive(sleeper))


def test_a_polite_child_may_finish(start: Callable[..., Child]) -> None:
    child = start(
        "sh", "-c", 'trap "echo tidy; exit 0" TERM; echo up; while :; do sleep 0.05; done'
    )
    wait_until(lambda: "up" in child.log.read_text())
    stop_all([child], grace_s=10)
    assert (child.process.returncode, child.last_words()) == (0, "tidy")


def test_children_die_with_a_killed_parent(tmp_path: Path) -> None:
    code = ORPHAN.format(logs=str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        sleeper = int(parent.stdout.readline())
        assert is_alive(sleeper)
        parent.kill()
    wait_until(lambda: not is_alive(sleeper))
