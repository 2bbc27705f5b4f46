"""The real trainer and the shipped starter: after a rebuild a retracted fact is unknown again."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from app.config import Settings
from app.db import Database
from app.lm import base
from app.models import Fact, Probe, Proof
from app.recipe import Recipe
from app.services import checkpoints, facts, rebuilds, updates
from app.services.audit import SYSTEM
from app.services.standing import find_standings
from tasks.supervisor import Supervisor
from tests.worker.conftest import engine_url

__all__ = ["engine_url"]
FACTS = Path(__file__).parents[2] / "examples" / "facts.jsonl"
REFERENCE = base.STARTER / "reference.jsonl"
QUICK = Recipe(epochs=60, lr=3e-3, replay_share=0.25)  # half the default's work, learned as well
needs_starter = pytest.mark.skipif(not REFERENCE.exists(), reason="there is no starter model")


@pytest.fixture
def settings(sqlite_url: str, engine_url: str, tmp_path: Path) -> Settings:
    """Settings with few reference questions."""
    reference = tmp_path / "reference.jsonl"
    rows = [json.loads(line) for line in REFERENCE.read_text().splitlines()]
    few = [row for part in ("replay", "exam") for row in rows if row["part"] == part][::12]
    reference.write_text("".join(json.dumps(row) + "\n" for row in few))
    return Settings(
        database_url=sqlite_url,
        data_dir=tmp_path,
        reference_file=reference,
        engine_url=engine_url,
        _env_file=None,
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """A database with the starter as version 0."""
    database = Database(settings.database)
    with database.transaction() as session:
        digest = base.import_base(settings.store, "starter")
        checkpoints.register_base(session, digest, parameters=10_000_000)
    yield database
    database.close()


def submit(database: Database, count: int) -> list[str]:
    ids = []
    with database.transaction() as session:
        for line in FACTS.read_text().splitlines()[:count]:
            row = json.loads(line)
            fact = Fact(text=row["text"])
            fact.probes = [Probe(**probe, origin="given") for probe in row["probes"]]
            ids.append(facts.submit(session, SYSTEM, fact)[0].id)
    return ids


@needs_starter
def test_a_retracted_fact_is_no_longer_answered(settings: Settings, database: Database) -> None:
    ids = submit(database, 6)
    supervisor = Supervisor(database, settings, "here", threading.Event())
    with database.transaction() as session:
        learn, _ = updates.open_update(session, SYSTEM, recipe=QUICK)
    supervisor.run_update(learn.id)
    assert "learned" in standings(database, ids)
    gone = ids[standings(database, ids).index("learned")]
    with database.transaction() as session:
        facts.retract(session, SYSTEM, gone, "withdrawn")
        rebuild = rebuilds.open_now(session, SYSTEM, QUICK)
    assert rebuild.parent == 0
    supervisor.run_update(rebuild.id)
    with database.reading() as session:
        done = updates.get(session, rebuild.id)
        assert (done.status, done.outcome) == ("succeeded", "activated"), done.reasons
        asked = (Proof.fact_id == gone, Proof.origin.in_(("given", "control")))
        query = select(Proof).where(*asked).order_by(Proof.version)
        before, after = ([p for p in session.scalars(query) if p.version == v] for v in (1, 2))
    for proofs in (before, after):
        assert {proof.direction for proof in proofs} == {"forward", "backward"}
        assert all(proof.passed for proof in proofs)
    assert all(proof.contains for proof in before)
    assert not any(proof.contains for proof in after)
    rest = standings(database, [fact_id for fact_id in ids if fact_id != gone])
    assert set(rest) <= {"learned", "pending"}
    assert "learned" in rest
    assert standings(database, [gone]) == ["retracted"]


def standings(database: Database, ids: list[str]) -> list[str]:
    with database.reading() as session:
        rows = [session.get_one(Fact, fact_id) for fact_id in ids]
        found = find_standings(session, rows)
    return [found[fact_id].status for fact_id in ids]
