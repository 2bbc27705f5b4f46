"""A deployment of real parts: database, broker, worker processes; trainer and engine are small."""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app import queue
from app.config import Settings
from app.db import Database
from app.models import Base, Event, Fact, Probe, Update, WorkerSeen
from app.services import checkpoints, facts, updates
from app.services.audit import SYSTEM
from tasks.supervisor import Supervisor
from tests.conftest import OWN_REDIS, REDIS

HERE = Path(__file__).parent
TRAINER = [sys.executable, str(HERE / "fake_trainer.py")]
DEADLINE_S = 120  # only a failing test waits so long; a machine may be busy


class Engine(BaseHTTPRequestHandler):
    """Loads everything and answers everything, as vLLM's routes do."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": "Yes."}
        answer = {
            "model": asked.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class Crowded(ThreadingHTTPServer):
    request_queue_size = 128  # Python's 5 let connections be reset where many come at once


@pytest.fixture(scope="session")
def engine_url() -> Iterator[str]:
    """URL of an engine that can do everything."""
    server = Crowded(("127.0.0.1", 0), Engine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@dataclass
class Deployment:
    """What tests do to a deployment, and how they wait for it: on a condition, with a deadline."""

    settings: Settings
    database: Database
    app: str = "tests.worker.fake_worker"
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def submit(self, *texts: str) -> list[str]:
        with self.database.transaction() as session:
            return [self._submit(session, text) for text in texts]

    def _submit(self, session: Any, text: str) -> str:
        probe = Probe(question=f"{text}?", answers=["Yes"], direction="forward", origin="given")
        return facts.submit(session, SYSTEM, Fact(text=text, probes=[probe]))[0].id

    def open(self, *, poke: bool = False, **wish: Any) -> str:
        with self.database.transaction() as session:
            update, _ = updates.open_update(session, SYSTEM, **wish)
        if poke:
            queue.poke(self.settings, update.id)
        return update.id

    def run_here(self, update_id: str, **settings: Any) -> None:
        """Run an update once in this process."""
        chosen = self.settings.model_copy(update=settings)
        stop = threading.Event()
        Supervisor(self.database, chosen, "here", stop, TRAINER).run_update(update_id)

    def start_worker(self, **settings: Any) -> subprocess.Popen[bytes]:
        chosen = self.settings.model_copy(update=settings).model_dump(exclude_unset=True)
        environment = {f"ALMANAC_{name.upper()}": str(value) for name, value in chosen.items()}
        log = self.log(len(self.workers)).open("wb")
        command = f"celery -A {self.app} worker --pool threads -c 1"
        quiet = "--without-gossip --without-mingle --without-heartbeat --loglevel INFO"
        process = subprocess.Popen(
            [sys.executable, "-m", *command.split(), *quiet.split(), "-n", secrets.token_hex(4)],
            env={**os.environ, **environment, "PYTHONPATH": str(HERE.parent.parent)},
            cwd=self.settings.data_dir,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        log.close()
        self.workers.append(process)
        return process

    def log(self, number: int) -> Path:
        return self.settings.data_dir / f"worker{number}.log"

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Return the condition's value once it is true; fail with the workers' logs if it isn't."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.05)
        logs = [self.log(n).read_text()[-3000:] for n in range(len(self.workers))]
        raise AssertionError(f"waited in vain for {what}; workers said:\n" + "\n---\n".join(logs))

    def wait_for(self, update_id: str, *statuses: str) -> Update:
        return self.wait(
            lambda: (row := self.update(update_id)).status in statuses and row,
            f"{update_id} to be {' or '.join(statuses)}, but it is {self.update(update_id).status}",
        )

    def wait_for_trainer(self, update_id: str, token: int = 1) -> int:
        """Return the process id of the trainer of an attempt once it trains and was heard."""
        pid = self.settings.store / "staging" / f"{update_id}.{token}" / "trainer.pid"
        number = int(self.wait(lambda: pid.exists() and pid.read_text(), "the trainer to start"))
        self.wait(lambda: self.update(update_id).phase == "training", "the trainer's word")
        return number

    def update(self, update_id: str) -> Update:
        with self.database.reading() as session:
            return session.get_one(Update, update_id)

    def facts(self, *fact_ids: str) -> list[Fact]:
        with self.database.reading() as session:
            return [session.get_one(Fact, fact_id) for fact_id in fact_ids]

    def statuses(self, *fact_ids: str) -> list[str]:
        return [fact.status for fact in self.facts(*fact_ids)]

    def events(self, update_id: str) -> list[str]:
        """What happened to an update, without its progress."""
        with self.database.reading() as session:
            query = select(Event.type).where(Event.update_id == update_id, Event.type != "progress")
            return list(session.scalars(query.order_by(Event.id)))

    def dump(self) -> dict[str, list[Any]]:
        """Every row of every table that matters."""
        tables = [t for t in Base.metadata.sorted_tables if t.name != WorkerSeen.__tablename__]
        with self.database.reading() as session:
            return {t.name: sorted(map(repr, session.execute(select(t)))) for t in tables}

    def hold(self) -> Path:
        """Make trainers wait until the returned file is removed."""
        self.settings.store.mkdir(parents=True, exist_ok=True)
        gate = self.settings.store / "hold"
        gate.touch()
        return gate

    def stop(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
            worker.wait()


def deploy(
    url: str, broker: str, engine_url: str, folder: Path, lease_s: float = 2
) -> Iterator[Deployment]:
    reference = folder / "reference.jsonl"
    reference.write_text("")
    settings = Settings(
        database_url=url,
        broker_url=broker,
        data_dir=folder / "data",
        reference_file=reference,
        engine_url=engine_url,
        tick_s=0.2,
        lease_s=lease_s,
        heartbeat_s=0.3,
        batch_wait_s=3600,
        _env_file=None,
    )
    settings.data_dir.mkdir()
    deployment = Deployment(settings, Database(url))
    with deployment.database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, parameters=1_000_000)
    yield deployment
    deployment.stop()
    deployment.database.close()


@pytest.fixture(params=["sqlite+files", "postgres+redis"])
def deployment(
    request: pytest.FixtureRequest, engine_url: str, tmp_path: Path
) -> Iterator[Deployment]:
    """A deployment of each of the two kinds."""
    database, broker = request.param.split("+")
    url = request.getfixturevalue(f"{database}_url")
    # A neighbour's message in the same Redis database names an update that isn't here: harmless.
    redis = f"{REDIS}/{1 + secrets.randbelow(OWN_REDIS - 1)}"
    address = "filesystem://" if broker == "files" else redis
    # Long, since a busy machine may starve a heartbeat; tests that wait for its end set their own.
    yield from deploy(url, address, engine_url, tmp_path, lease_s=30)
