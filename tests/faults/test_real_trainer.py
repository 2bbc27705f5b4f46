"""The real trainer under the same kills as the small one: its half-done work never counts."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select

from app.models import Checkpoint, Update
from app.recipe import Recipe
from tests.faults.checks import find_bad_files, find_problems
from tests.faults.conftest import sized
from tests.worker.conftest import Deployment

pytestmark = pytest.mark.timeout(600)
KILLS = sized(5)  # on each pair
WITHIN_S = 2  # of a phase's first sign; both last longer


@pytest.fixture
def starter(deployment: Deployment) -> Deployment:
    """A deployment of the shipped model and the trainer that is shipped with it."""
    command = [sys.executable, "-m", "app.lm.base", "--model", "starter", "--store"]
    made = subprocess.run(
        [*command, str(deployment.settings.store)], check=True, stdout=subprocess.PIPE
    )
    with deployment.database.transaction() as session:
        session.get_one(Checkpoint, 0).digest = json.loads(made.stdout)["digest"]
    deployment.app = "tasks.worker"
    return deployment


def find_trainer(folder: Path) -> int | None:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "cmdline").read_bytes():
                return int(process.name)
        except OSError:  # it has ended meanwhile
            continue
    return None


def strike(deployment: Deployment, worker: subprocess.Popen[bytes], chance: random.Random) -> str:
    """Kill the worker or its trainer at a random moment of a random phase; return what was hit."""
    phase = chance.choice(["preparing", "training"])
    row = deployment.wait(partial(find_run, deployment, phase), f"a run to be {phase}")
    folder = deployment.settings.store / "staging" / f"{row.id}.{row.token}"
    pid = deployment.wait(partial(find_trainer, folder), "the trainer")
    time.sleep(chance.random() * WITHIN_S)
    # The third failure of one trainer would split its update.
    if row.attempt < 2 and chance.random() < 0.5:
        os.kill(pid, signal.SIGKILL)
        return f"trainer while {phase}"
    worker.kill()
    worker.wait()
    deployment.wait(lambda: find_trainer(folder) is None, "the trainer to die with its worker")
    return f"worker while {phase}"


def find_run(deployment: Deployment, phase: str) -> Update | None:
    with deployment.database.reading() as session:
        running = select(Update).where(Update.status == "running", Update.phase == phase)
        return session.scalar(running)


def test_kills_of_the_real_trainer_leave_nothing_half(starter: Deployment, tell) -> None:
    chance, hits = random.Random(3), []
    worker = starter.start_worker(trainer_threads=1)
    ids = starter.submit("Gate 1 is blue.", "Gate 2 is red.")
    update_id = starter.open(poke=True, recipe=Recipe(epochs=200))
    while len(hits) < KILLS:
        hits.append(strike(starter, worker, chance))
        if worker.poll() is not None:
            worker = starter.start_worker(trainer_threads=1)
    starter.wait_for(update_id, "succeeded")
    with starter.database.reading() as session:
        assert find_problems(session) == []
        assert find_bad_files(session, starter.settings.store) == []
    assert set(starter.statuses(*ids)) <= {"trained", "pending"}
    tell(f"real trainer: {len(hits)} kills ({', '.join(hits)}), then a whole checkpoint")
