"""Every named crash point, one after the other: nothing half is left, and a restart finishes."""

import signal
from functools import partial
from typing import get_args

import pytest

from app.crash import CrashPoint
from app.services import activations
from tests.faults.checks import find_bad_files, find_problems
from tests.faults.planting import arm
from tests.worker.conftest import Deployment

pytestmark = pytest.mark.timeout(600)
IN_TRAINER = ("sealing", "sealed")


def is_learned(deployment: Deployment, fact_id: str) -> bool:
    return deployment.statuses(fact_id) == ["trained"]


def check(deployment: Deployment, when: str) -> None:
    with deployment.database.reading() as session:
        assert find_problems(session) == [], when
        assert find_bad_files(session, deployment.settings.store) == [], when


def test_dying_at_any_crash_point_leaves_nothing_half(deployment: Deployment, tell) -> None:
    points = get_args(CrashPoint)
    worker = deployment.start_worker(batch_facts=1, batch_wait_s=0)
    ids = []
    for number, point in enumerate(points):
        struck = arm(deployment.settings.store, point, signal.SIGKILL)
        ids += deployment.submit(f"Gate {number} is blue.")
        deployment.wait(struck.exists, f"somebody to die at {point}")
        if point not in IN_TRAINER:
            assert worker.wait(10) == -signal.SIGKILL
            check(deployment, f"dead at {point}")
            worker = deployment.start_worker(batch_facts=1, batch_wait_s=0)
        learned = partial(is_learned, deployment, ids[-1])
        deployment.wait(learned, f"life to go on after {point}")
        check(deployment, f"alive again after {point}")
    assert deployment.statuses(*ids) == ["trained"] * len(points)
    with deployment.database.reading() as session:
        now = activations.current(session)
    assert now is not None
    assert now.version == len(points)  # one version each, the last one current
    tell(f"{len(points)} of {len(points)} crash points: nothing half, each update finished")
