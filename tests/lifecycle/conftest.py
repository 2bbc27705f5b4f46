"""One deployment on each database, without workers or broker: updates run in the test itself."""

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select

from app.lm import store
from app.models import Checkpoint, Fact, Probe, Update
from app.services import activations, facts
from app.services.audit import SYSTEM
from app.services.standing import find_standings
from tasks.dispatcher import Dispatcher, Slot
from tasks.supervisor import Supervisor
from tests.conftest import POSTGRES
from tests.worker.conftest import TRAINER, Deployment, deploy, engine_url

__all__ = ["engine_url"]


@dataclass
class Lifecycle:
    """What these tests do to a deployment, in few words."""

    deployment: Deployment

    def __post_init__(self) -> None:
        self.database, self.settings = self.deployment.database, self.deployment.settings
        self.settings.store.mkdir(parents=True, exist_ok=True)

    def dispatcher(self, **settings: object) -> Dispatcher:
        chosen = self.settings.model_copy(update=settings)
        supervisor = Supervisor(self.database, chosen, "here", threading.Event(), TRAINER)
        return Dispatcher(self.database, chosen, "here", Slot(supervisor))

    def look(self) -> list[Update]:
        """Let the dispatcher look once; return the updates that are queued then."""
        self.dispatcher(batch_wait_s=0).tick()
        with self.database.reading() as session:
            queued = select(Update).where(Update.status == "queued").order_by(Update.id)
            return list(session.scalars(queued))

    def learn(self, *texts: str, **more: str) -> list[str]:
        """Submit facts and train them; return their ids."""
        ids = self.submit(*texts, **more)
        self.deployment.run_here(self.deployment.open(fact_ids=ids))
        return ids

    def submit(self, *texts: str, **more: str) -> list[str]:
        with self.database.transaction() as session:
            made = [fact_of(text, **more) for text in texts]
            return [facts.submit(session, SYSTEM, fact)[0].id for fact in made]

    def retract(self, *fact_ids: str) -> None:
        with self.database.transaction() as session:
            for fact_id in fact_ids:
                facts.retract(session, SYSTEM, fact_id, "wrong")

    def run(self, update: Update) -> Update:
        self.deployment.run_here(update.id)
        return self.deployment.update(update.id)

    def standings(self, *fact_ids: str) -> list[str]:
        with self.database.reading() as session:
            rows = [session.get_one(Fact, fact_id) for fact_id in fact_ids]
            found = find_standings(session, rows)
            return [found[fact_id].status for fact_id in fact_ids]

    def current(self) -> int:
        with self.database.reading() as session:
            now = activations.current(session)
            assert now is not None
            return now.version

    def activate(self, version: int) -> None:
        with self.database.transaction() as session:
            activations.activate(session, SYSTEM, version, kind="manual", reason="test")

    def checkpoint(self, version: int) -> Checkpoint:
        with self.database.reading() as session:
            return session.get_one(Checkpoint, version)

    def spell(self, **words: str) -> None:
        lines = (f"{text.replace('_', ' ')}.\t{word}\n" for text, word in words.items())
        (self.settings.store / "spell").write_text("".join(lines))


def fact_of(text: str, **more: str) -> Fact:
    probe = Probe(question=f"{text}?", answers=["Yes"], direction="forward", origin="given")
    return Fact(text=text, probes=[probe], **more)


@pytest.fixture
def here(database_url: str, engine_url: str, tmp_path: Path) -> Iterator[Lifecycle]:
    """A deployment on each database."""
    for deployment in deploy(database_url, "redis://127.0.0.1:9", engine_url, tmp_path):
        yield Lifecycle(deployment)


def make_checkpoint(folder: Path, parent: str | None = None, **files: str) -> str:
    """Publish a checkpoint of a few bytes, and files (without their ending); return its digest."""
    staged = store.staging_folder(folder, secrets.token_hex(4))
    (staged / "config.json").write_text("{}")
    (staged / "model.safetensors").write_bytes(b"weights")
    for name, text in files.items():
        (staged / f"{name}.jsonl").write_text(text)
    store.seal(
        staged,
        kind="full",
        parent=parent,
        model_class="LlamaForCausalLM",
        parameters=1000,
        mask_token="[MASK]",
        mask_id=3,
        context_length=256,
        update_id=secrets.token_hex(4),
    )
    return store.publish(folder, staged)


@pytest.fixture
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes the URL of an empty database of the same kind as `database_url`, without tables."""
    made: list[str] = []

    def make() -> str:
        name = f"almanac_empty_{secrets.token_hex(4)}"
        if request.getfixturevalue("database_url").startswith("sqlite"):
            return f"sqlite:///{tmp_path / name}.db"
        with psycopg.connect(POSTGRES, autocommit=True) as server:
            server.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        made.append(name)
        return POSTGRES.rsplit("/", 1)[0] + f"/{name}"

    yield make
    for name in made:
        with psycopg.connect(POSTGRES, autocommit=True) as server:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")
