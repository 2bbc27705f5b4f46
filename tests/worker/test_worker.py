"""Real worker processes on both pairs of database and broker, killed and confused."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import redis
from sqlalchemy import NullPool, create_engine, func, select
from sqlalchemy.exc import OperationalError

from app import queue
from app.models import Activation, Checkpoint, Event
from app.services import updates
from app.services.audit import SYSTEM
from tests.worker.conftest import Deployment


def is_alive(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def published(deployment: Deployment) -> list[int]:
    with deployment.database.reading() as session:
        return list(session.scalars(select(Checkpoint.version).order_by(Checkpoint.version)))


def wipe_broker(deployment: Deployment) -> None:
    if deployment.settings.broker.startswith("redis"):
        client = redis.Redis.from_url(deployment.settings.broker)
        client.flushdb()
        client.close()
    else:
        shutil.rmtree(deployment.settings.data_dir / "broker")


def test_a_message_alone_brings_an_update_to_its_end(deployment: Deployment) -> None:
    deployment.start_worker(tick_s=3600)
    ids = deployment.submit("The east gate is blue.")
    update_id = deployment.open(poke=True)
    for _ in range(4):
        queue.poke(deployment.settings, update_id)  # repeats change nothing
    deployment.wait_for(update_id, "succeeded")
    assert deployment.statuses(*ids) == ["trained"]
    assert deployment.events(update_id) == ["queued", "started", "finished"]
    assert published(deployment) == [0, 1]


def test_waiting_facts_are_trained_without_any_message(deployment: Deployment) -> None:
    deployment.start_worker(batch_wait_s=0)
    ids = deployment.submit("The east gate is blue.", "The west gate is UNPROVEN.")
    done = ["trained", "failed"]
    deployment.wait(lambda: deployment.statuses(*ids) == done, "both facts to be done with")
    # One proven at once, one given up after three tries: not a loop without end.
    assert published(deployment) == [0, 1, 2, 3]


def test_a_wiped_broker_loses_nothing(deployment: Deployment) -> None:
    deployment.start_worker()
    ids = deployment.submit("The east gate is blue.")
    first = deployment.open(poke=True)
    deployment.wait_for(first, "succeeded")
    wipe_broker(deployment)
    ids += deployment.submit("The west gate is red.")
    second = deployment.open()
    deployment.wait_for(second, "succeeded")
    assert deployment.statuses(*ids) == ["trained", "trained"]


def test_with_the_broker_down_everything_still_works(deployment: Deployment) -> None:
    worker = deployment.start_worker(broker_url="redis://127.0.0.1:9/0", batch_wait_s=0)
    ids = deployment.submit("The east gate is blue.")
    deployment.wait(lambda: deployment.statuses(*ids) == ["trained"], "the fact to be trained")
    worker.terminate()
    worker.wait(60)


def test_another_worker_finishes_what_a_killed_one_began(deployment: Deployment) -> None:
    victim = deployment.start_worker(lease_s=4)
    ids = deployment.submit("The east gate is blue.")
    gate = deployment.hold()
    update_id = deployment.open(poke=True)
    trainer = deployment.wait_for_trainer(update_id)
    victim.kill()
    deployment.wait(lambda: not is_alive(trainer), "the trainer to die with its supervisor")
    gate.unlink()
    deployment.start_worker()
    update = deployment.wait_for(update_id, "succeeded")
    assert (update.token, update.attempt, update.outcome) == (2, 0, "activated")
    assert deployment.events(update_id) == ["queued", "started", "requeued", "started", "finished"]
    assert deployment.statuses(*ids) == ["trained"]
    assert published(deployment) == [0, 1]
    staging = deployment.settings.store / "staging"
    deployment.wait(lambda: not list(staging.iterdir()), "staging to be swept")


def test_a_killed_trainer_is_started_again(deployment: Deployment) -> None:
    deployment.start_worker()
    deployment.submit("The east gate is blue.")
    gate = deployment.hold()
    update_id = deployment.open(poke=True)
    os.kill(deployment.wait_for_trainer(update_id), signal.SIGKILL)
    gate.unlink()
    update = deployment.wait_for(update_id, "succeeded")
    assert (update.token, update.attempt) == (2, 1)
    assert published(deployment) == [0, 1]
    with deployment.database.reading() as session:
        assert session.get_one(Checkpoint, 1).metrics["attempts"] == 2, "it found the first's state"
    staging = deployment.settings.store / "staging"
    deployment.wait(lambda: not list(staging.iterdir()), "staging to be swept")


def test_a_worker_that_is_told_to_stop_gives_its_update_back(deployment: Deployment) -> None:
    worker = deployment.start_worker(lease_s=3600)  # which nobody waits for
    ids = deployment.submit("The east gate is blue.")
    deployment.hold()
    update_id = deployment.open(poke=True)
    trainer = deployment.wait_for_trainer(update_id)
    worker.terminate()
    update = deployment.wait_for(update_id, "queued")
    assert (update.attempt, update.owner, update.lease_until) == (0, None, None)
    assert not is_alive(trainer)
    assert worker.wait(60) == 0
    assert deployment.events(update_id) == ["queued", "started", "requeued"]
    assert deployment.statuses(*ids) == ["training"]


def freeze(worker: subprocess.Popen[bytes], deployment: Deployment) -> None:
    """Stop a worker between two transactions: whoever sleeps in one keeps its locks."""

    def is_frozen() -> bool:
        worker.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED)
        engine = create_engine(deployment.database.engine.url, poolclass=NullPool)
        try:
            with engine.connect() as connection:
                if engine.dialect.name == "sqlite":
                    connection.exec_driver_sql("PRAGMA busy_timeout = 100")
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                else:
                    connection.exec_driver_sql("SELECT id FROM updates FOR UPDATE NOWAIT")
        except OperationalError:
            worker.send_signal(signal.SIGCONT)
            return False
        return True

    deployment.wait(is_frozen, "a moment between two transactions")


def test_a_worker_that_wakes_too_late_changes_nothing(deployment: Deployment) -> None:
    zombie = deployment.start_worker(lease_s=4)
    deployment.submit("The east gate is blue.")
    gate = deployment.hold()
    update_id = deployment.open(poke=True)
    deployment.wait_for_trainer(update_id)
    freeze(zombie, deployment)
    deployment.start_worker()
    deployment.wait(lambda: deployment.update(update_id).token == 2, "another to take over")
    gate.unlink()  # both trainers finish
    deployment.wait_for(update_id, "succeeded")
    before = deployment.dump()
    zombie.send_signal(signal.SIGCONT)
    deployment.wait(
        lambda: "another runner has update" in deployment.log(0).read_text(), "it to be fenced"
    )
    assert deployment.dump() == before
    assert published(deployment) == [0, 1]
    with deployment.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Activation)) == 2


def test_a_running_update_is_cancelled(deployment: Deployment) -> None:
    deployment.start_worker()
    ids = deployment.submit("The east gate is blue.")
    deployment.hold()
    update_id = deployment.open(poke=True)
    trainer = deployment.wait_for_trainer(update_id)
    with deployment.database.transaction() as session:
        updates.request_cancel(session, SYSTEM, update_id)
    deployment.wait_for(update_id, "cancelled")
    assert not is_alive(trainer)
    assert deployment.statuses(*ids) == ["pending"]
    with deployment.database.reading() as session:
        last = session.scalars(select(Event).order_by(Event.id.desc()).limit(1)).one()
    assert (last.type, last.data["status"]) == ("finished", "cancelled")


def test_nonsense_in_the_queue_stops_no_worker(deployment: Deployment) -> None:
    settings = deployment.settings
    if settings.broker.startswith("filesystem"):  # half a file, as a power cut leaves it
        (settings.data_dir / "broker" / "control").mkdir(parents=True, exist_ok=True)
        (settings.data_dir / "broker" / "control" / "almanac.exchange").touch()
    worker = deployment.start_worker(tick_s=3600)
    sender = queue.create_celery(settings.broker, settings.data_dir)
    for arguments in ([], [None], ["update_nobody"], [{"update": 1}], ["a", "b"]):
        sender.send_task(queue.RUN_UPDATE, arguments)
    sender.send_task("os.system", ["true"])
    if settings.broker.startswith("filesystem"):  # a message that was never written out
        (settings.data_dir / "broker" / "messages" / "0_torn.almanac.msg").touch()
    deployment.submit("The east gate is blue.")
    deployment.wait_for(deployment.open(poke=True), "succeeded")
    assert worker.poll() is None
