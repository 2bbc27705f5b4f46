"""Workers stopped past their lease and woken: whatever they were about to write, it is refused."""

import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import make_url

from app.crash import CrashPoint
from tests.faults.checks import find_bad_files, find_problems
from tests.faults.conftest import sized
from tests.faults.planting import arm
from tests.worker.conftest import Deployment

pytestmark = pytest.mark.timeout(900)
ZOMBIES = sized(25)  # on each pair
TAKEN_WITHIN_S = 30
# Where no transaction is open: inside one, a stopped process rightly keeps its locks.
POINTS: tuple[CrashPoint, ...] = (
    "claimed",
    "preparing",
    "prepared",
    "trained",
    "storing",
    "stored",
    "tried",
)


def find_stopped(deployment: Deployment) -> list[subprocess.Popen[bytes]]:
    stats = {worker: Path(f"/proc/{worker.pid}/stat") for worker in deployment.workers}
    return [
        worker
        for worker, stat in stats.items()
        if stat.read_text().rsplit(")", 1)[1].split()[0] == "T"
    ]


def was_told(deployment: Deployment, update_id: str) -> bool:
    words = f"another runner has update {update_id}"
    numbers = range(len(deployment.workers))
    return any(words in deployment.log(number).read_text() for number in numbers)


def taken_over(deployment: Deployment, update_id: str) -> bool:
    """Wait for the other worker; not where the stopped one holds a lock that it needs."""
    deadline = time.monotonic() + TAKEN_WITHIN_S
    while can_write(deployment) and time.monotonic() < deadline:
        if deployment.update(update_id).token > 1:
            return True
        time.sleep(0.1)
    return False


def can_write(deployment: Deployment) -> bool:
    url = make_url(deployment.settings.database)
    if url.database is None or url.get_backend_name() != "sqlite":
        return True
    with closing(sqlite3.connect(url.database, timeout=2, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def test_a_woken_worker_changes_nothing(deployment: Deployment, tell) -> None:
    for _ in range(2):
        deployment.start_worker()
    done, rounds = [], 0
    while len(done) < ZOMBIES:
        rounds += 1
        assert rounds < 2 * ZOMBIES + 5, f"only {done} in {rounds} rounds"
        point = POINTS[rounds % len(POINTS)]
        struck = arm(deployment.settings.store, point, signal.SIGSTOP)
        ids = deployment.submit(f"Gate {rounds} is blue.")
        update_id = deployment.open(poke=True)
        deployment.wait(struck.exists, f"a worker to be struck at {point}")
        stopped = deployment.wait(partial(find_stopped, deployment), f"it to stop at {point}")
        # Its tick may have held a lock when it stopped; then nobody could take over: not counted.
        taken = taken_over(deployment, update_id)
        if taken:
            deployment.wait_for(update_id, "succeeded")
        before = deployment.dump() if taken else None
        for worker in stopped:
            worker.send_signal(signal.SIGCONT)
        if before is None:
            deployment.wait_for(update_id, "succeeded")
            continue
        told = partial(was_told, deployment, update_id)
        deployment.wait(told, f"the zombie of {point} to be told")
        assert deployment.dump() == before, point
        assert deployment.update(update_id).token >= 2
        assert deployment.statuses(*ids) == ["trained"]
        done.append(point)
    with deployment.database.reading() as session:
        assert find_problems(session) == []
        assert find_bad_files(session, deployment.settings.store) == []
    tell(f"{len(done)} of {len(done)} zombies fenced, stopped at {set(done)}; {rounds} rounds")
