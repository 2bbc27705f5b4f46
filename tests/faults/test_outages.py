"""Brokers wiped and killed, Postgres cut off, all under load: what was accepted is learned."""

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import func, select

from app.migrate import migrate
from app.models import Fact, Update
from tests.faults.checks import find_bad_files, find_problems
from tests.faults.clients import Clients, serve
from tests.faults.conftest import sized
from tests.faults.servers import Postgres, Redis
from tests.worker.conftest import Deployment, deploy

pytestmark = pytest.mark.timeout(600)
ROUNDS = sized(5)
BATCH = 5
CLIENTS, PAUSE_S = 2, 0.1
Outage = Callable[[Deployment], None]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user may own, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="almanac-postgres-") as folder:
        yield Path(folder)


@pytest.fixture(params=["sqlite+files", "postgres+redis"])
def breakable(
    request: pytest.FixtureRequest, engine_url: str, tmp_path: Path
) -> Iterator[tuple[Deployment, dict[str, Outage]]]:
    """A deployment of each kind on servers of its own, and what may happen to these."""
    if request.param == "sqlite+files":
        url = request.getfixturevalue("sqlite_url")
        for deployment in deploy(url, "filesystem://", engine_url, tmp_path):
            yield deployment, {"broker's folder wiped": wipe_files}
        return
    with (
        closing(Postgres(request.getfixturevalue("folder"))) as postgres,
        closing(Redis(tmp_path)) as redis,
    ):
        migrate(postgres.url)

        def wipe(_: Deployment) -> None:
            assert redis.wipe() > 0

        def kill(deployment: Deployment) -> None:
            redis.kill()
            see_one_succeed(deployment)  # with no broker at all
            redis.start()

        def cut(_: Deployment) -> None:
            postgres.restart()

        outages = {"Redis wiped": wipe, "Redis killed": kill, "Postgres cut off": cut}
        for deployment in deploy(postgres.url, redis.url, engine_url, tmp_path):
            yield deployment, outages


def wipe_files(deployment: Deployment) -> None:
    broker = deployment.settings.data_dir / "broker"
    deployment.wait(lambda: any(broker.glob("messages/*")), "a message")
    shutil.rmtree(broker, ignore_errors=True)


def count_succeeded(deployment: Deployment) -> int:
    with deployment.database.reading() as session:
        done = select(func.count()).select_from(Update).where(Update.status == "succeeded")
        return session.scalars(done).one()


def see_one_succeed(deployment: Deployment) -> None:
    before = count_succeeded(deployment)
    deployment.wait(lambda: count_succeeded(deployment) > before, "an update to succeed")


def submit(clients: Clients, number: int, enough: threading.Event) -> tuple[list[str], int]:
    """Submit facts one by one, each until it is accepted; return their ids and the 503s met."""
    accepted: list[str] = []
    refused = 0
    while not enough.wait(PAUSE_S):
        name = f"{number}-{len(accepted)}"
        once = {"Idempotency-Key": name}
        while True:
            status, answer, _ = clients.post(number, "/v1/facts", {"text": f"Gate {name}."}, **once)
            if status != 503:
                break
            refused += 1
            time.sleep(PAUSE_S)
        assert status == 201, answer
        accepted.append(answer["id"])
    return accepted, refused


def all_trained(deployment: Deployment) -> bool:
    with deployment.database.reading() as session:
        return session.scalar(select(Fact.id).where(Fact.status != "trained").limit(1)) is None


def test_outages_under_load_lose_nothing(
    breakable: tuple[Deployment, dict[str, Outage]], tell
) -> None:
    deployment, outages = breakable
    for _ in range(2):
        deployment.start_worker(batch_facts=BATCH, batch_cap=4 * BATCH, batch_wait_s=1)
    enough = threading.Event()
    with serve(deployment, 1) as clients, ThreadPoolExecutor(CLIENTS) as pool:
        loads = [pool.submit(submit, clients, number, enough) for number in range(CLIENTS)]
        try:
            see_one_succeed(deployment)
            for _ in range(ROUNDS):
                for outage in outages.values():
                    outage(deployment)
                    see_one_succeed(deployment)
        finally:
            enough.set()
        accepted = {fact_id for load in loads for fact_id in load.result()[0]}
        refused = sum(load.result()[1] for load in loads)
    deployment.wait(partial(all_trained, deployment), "every fact to be learned")
    with deployment.database.reading() as session:
        assert set(session.scalars(select(Fact.id))) == accepted
        assert find_problems(session) == []
        assert find_bad_files(session, deployment.settings.store) == []
    assert refused > 0 or "Postgres cut off" not in outages
    tell(
        f"{', '.join(outages)}, {ROUNDS} times each under load: {len(accepted)} facts accepted "
        f"({refused} times 503), all present and learned by {count_succeeded(deployment)} updates"
    )
