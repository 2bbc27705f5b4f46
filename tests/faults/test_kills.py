"""kill -9 of workers and trainers at random moments: nothing lost, nothing twice, nothing stuck."""

import os
import random
import signal
import time

import pytest
from sqlalchemy import func, select

from app.models import Fact, Update
from app.services import facts
from app.services.audit import SYSTEM
from tests.faults.checks import find_bad_files, find_problems
from tests.faults.conftest import sized
from tests.worker.conftest import Deployment

pytestmark = pytest.mark.timeout(900)
KILLS = sized(100)  # on each pair
FACTS = sized(1000)
BATCH = 10
WITHIN_S = 300


def count(deployment: Deployment, *statuses: str) -> int:
    with deployment.database.reading() as session:
        found = select(func.count()).select_from(Fact).where(Fact.status.in_(statuses))
        return session.scalars(found).one()


def running_owner(deployment: Deployment) -> str | None:
    with deployment.database.reading() as session:
        return session.scalar(select(Update.owner).where(Update.status == "running"))


def start(deployment: Deployment) -> None:
    deployment.start_worker(batch_facts=BATCH, batch_cap=BATCH, batch_wait_s=0)


def kill_one(deployment: Deployment, chance: random.Random) -> str | None:
    """Kill the worker that runs an update, or its trainer; return which, None if none was met."""
    owner = running_owner(deployment)
    if owner is None:
        time.sleep(0.02)
        return None
    time.sleep(chance.random() * 0.5)  # the random moment
    if chance.random() < 0.4:
        for file in deployment.settings.store.glob("staging/*/trainer.pid"):
            try:
                os.kill(int(file.read_text()), signal.SIGKILL)
            except (OSError, ValueError):
                continue
            return "trainer"
        return None
    for worker in deployment.workers:
        if worker.poll() is None and owner.endswith(f"-{worker.pid}"):
            worker.kill()
            worker.wait()
            start(deployment)
            return "worker"
    return None


def let_failed_ones_train_again(deployment: Deployment) -> int:
    """Do what an operator would: a fact whose trainer was killed three times has failed."""
    with deployment.database.transaction() as session:
        ids = session.scalars(select(Fact.id).where(Fact.status == "failed")).all()
        if ids:
            facts.requeue(session, SYSTEM, ids, "its trainer was killed")
    return len(ids)


def test_killing_at_random_loses_and_doubles_nothing(deployment: Deployment, tell) -> None:
    chance, kills = random.Random(7), {"worker": 0, "trainer": 0}
    accepted: list[str] = []
    for _ in range(2):
        start(deployment)
    deadline = time.monotonic() + 2 * WITHIN_S
    while sum(kills.values()) < KILLS:
        assert time.monotonic() < deadline, f"only {kills} in time"
        # Facts come in beside the kills, so that none of these is without work to disturb.
        if len(accepted) * KILLS <= sum(kills.values()) * FACTS or not count(deployment, "pending"):
            numbers = range(len(accepted), len(accepted) + BATCH)
            accepted += deployment.submit(*(f"Gate {number} is blue." for number in numbers))
        if victim := kill_one(deployment, chance):
            kills[victim] += 1
    while len(accepted) < FACTS:
        accepted += deployment.submit(f"Gate {len(accepted)} is blue.")
    given_up = 0
    deadline = time.monotonic() + WITHIN_S
    while count(deployment, "trained") < len(accepted):
        assert time.monotonic() < deadline, "stuck"
        given_up += let_failed_ones_train_again(deployment)
        time.sleep(0.1)
    with deployment.database.reading() as session:
        assert set(session.scalars(select(Fact.id))) == set(accepted)
        assert find_problems(session) == []
        assert find_bad_files(session, deployment.settings.store) == []
        updates = session.scalars(select(func.count()).select_from(Update)).one()
        live = (Update.status.in_(("queued", "running")),)
        assert session.scalars(select(Update.id).where(*live)).all() == []
    assert min(kills.values()) > 0 or KILLS < 10
    tell(
        f"{sum(kills.values())} kills ({kills['worker']} workers, {kills['trainer']} trainers), "
        f"{len(accepted)} facts, {updates} updates: 0 lost, 0 twice, 0 stuck; "
        f"{given_up} facts put in line again by hand"
    )
