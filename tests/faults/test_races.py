"""Two API processes and many clients at once: one fact a key, one winner a revision."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier, local

import pytest
from sqlalchemy import func, select

from app.models import Activation, Checkpoint, Fact, Update
from app.services import keys
from app.services.audit import SYSTEM
from tests.faults.checks import find_problems
from tests.faults.conftest import sized
from tests.worker.conftest import Deployment

pytestmark = pytest.mark.timeout(900)
RACERS, KEYS = 50, sized(100)
ADMINS, ROUNDS = 32, sized(20)
VERSIONS = 4


class Clients:
    """Clients of two API processes over one database; each thread has its own connection."""

    def __init__(self, ports: list[int], secret: str) -> None:
        self.ports, self._secret, self._mine = ports, secret, local()
        self._opened: list[http.client.HTTPConnection] = []

    def post(self, number: int, path: str, body: object, **headers: str) -> tuple[int, dict, bool]:
        """Return status, answer, and whether it is a replay."""
        if not hasattr(self._mine, "connection"):
            port = self.ports[number % len(self.ports)]
            self._mine.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            self._opened.append(self._mine.connection)
        head = {"Authorization": f"Bearer {self._secret}", "Content-Type": "application/json"}
        self._mine.connection.request("POST", path, json.dumps(body), {**head, **headers})
        with closing(self._mine.connection.getresponse()) as answer:
            replayed = answer.headers.get("Idempotency-Replayed") == "true"
            return answer.status, json.loads(answer.read()), replayed

    def close(self) -> None:
        for connection in self._opened:
            connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_up(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def clients(deployment: Deployment) -> Iterator[Clients]:
    """Two API processes that serve, and an administrator's key."""
    with deployment.database.transaction() as session:
        secret = keys.create(session, SYSTEM, "admin", ("admin",))[1]
    chosen = deployment.settings.model_dump(exclude_unset=True)
    environment = {f"ALMANAC_{name.upper()}": str(value) for name, value in chosen.items()}
    ports = [free_port(), free_port()]
    command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory"]
    options = ["--no-access-log", "--timeout-keep-alive", "600", "--port"]
    folder = deployment.settings.data_dir
    processes = [
        subprocess.Popen(
            [*command, *options, str(port)],
            env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for port in ports
    ]
    deadline = time.monotonic() + 60
    while not all(map(is_up, ports)):
        assert time.monotonic() < deadline, "the API doesn't start"
        time.sleep(0.1)
    clients = Clients(ports, secret)
    yield clients
    clients.close()
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(30)


def test_racing_posts_with_one_key_make_one_fact(
    deployment: Deployment, clients: Clients, tell
) -> None:
    barrier = Barrier(RACERS)

    def race(number: int) -> list[tuple[int, str, bool]]:
        answers = []
        for key in range(KEYS):
            barrier.wait(120)
            body = {"text": f"Gate {key} is blue."}
            status, answer, replayed = clients.post(
                number, "/v1/facts", body, **{"Idempotency-Key": f"key-{key}"}
            )
            answers.append((status, answer.get("id", str(answer)), replayed))
        return answers

    with ThreadPoolExecutor(RACERS) as pool:
        by_racer = list(pool.map(race, range(RACERS)))
    for key in range(KEYS):
        answers = [mine[key] for mine in by_racer]
        assert {status for status, _, _ in answers} == {201}
        assert len({fact_id for _, fact_id, _ in answers}) == 1
        assert sum(not replayed for _, _, replayed in answers) == 1
    with deployment.database.reading() as session:
        assert session.scalars(select(func.count()).select_from(Fact)).one() == KEYS
    tell(f"{RACERS} racing POSTs x {KEYS} keys: 1 fact each, the rest replays")


def test_racing_activations_have_one_winner(deployment: Deployment, clients: Clients, tell) -> None:
    with deployment.database.transaction() as session:
        for version in range(1, VERSIONS + 1):
            made = Update(recipe={}, status="succeeded", outcome="held")
            session.add(made)
            session.flush()
            digest = f"{version:064x}"
            row = Checkpoint(version=version, digest=digest, kind="full", parent=0)
            row.update_id = made.id
            session.add(row)
    barrier = Barrier(ADMINS)

    def race(number: int) -> list[int | str]:
        statuses = []
        for turn in range(ROUNDS):
            now = 0 if turn == 0 else winners[turn - 1]
            others = [version for version in range(VERSIONS + 1) if version != now]
            wanted = others[number % len(others)]
            body = {"expected_current": now, "reason": f"round {turn}"}
            if number % 2:
                path, body = "/v1/rollback", {**body, "to": wanted}
            else:
                path = f"/v1/checkpoints/{wanted}/activate"
            barrier.wait(120)
            status, answer, _ = clients.post(number, path, body)
            statuses.append(status if status in (200, 409) else f"{status}: {answer}")
            if status == 200:
                winners[turn] = answer["version"]
            barrier.wait(120)
        return statuses

    winners: dict[int, int] = {}
    with ThreadPoolExecutor(ADMINS) as pool:
        by_admin = list(pool.map(race, range(ADMINS)))
    for turn in range(ROUNDS):
        assert Counter(mine[turn] for mine in by_admin) == {200: 1, 409: ADMINS - 1}
    with deployment.database.reading() as session:
        assert find_problems(session) == []
        ledger = session.scalars(select(Activation.version).order_by(Activation.id)).all()
    assert list(ledger) == [0, *(winners[turn] for turn in range(ROUNDS))]
    tell(f"{ADMINS} racing activations and rollbacks x {ROUNDS}: 1 winner each, the rest 409")
