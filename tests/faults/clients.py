"""API processes over a deployment's database, and clients of them."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import local

from app.services import keys
from app.services.audit import SYSTEM
from tests.worker.conftest import Deployment


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


@contextmanager
def serve(deployment: Deployment, count: int) -> Iterator[Clients]:
    """So many API processes; the clients have an administrator's key."""
    with deployment.database.transaction() as session:
        secret = keys.create(session, SYSTEM, "admin", ("admin",))[1]
    chosen = deployment.settings.model_dump(exclude_unset=True)
    environment = {f"ALMANAC_{name.upper()}": str(value) for name, value in chosen.items()}
    ports = [free_port() for _ in range(count)]
    command = [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory"]
    options = ["--no-access-log", "--timeout-keep-alive", "600", "--port"]
    processes = [
        subprocess.Popen(
            [*command, *options, str(port)],
            env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=deployment.settings.data_dir,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for port in ports
    ]
    try:
        deployment.wait(lambda: all(map(is_up, ports)), "the API to start")
        with closing(Clients(ports, secret)) as clients:
            yield clients
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
