"""One run in this process with a real trainer process: every way in which it can end."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select

from app.models import Checkpoint, Fact, Proof, Update, UpdateFact
from app.services import activations, facts, jobs, publishing, runs, updates
from app.services.audit import SYSTEM
from app.services.publishing import Candidate, Result, Verdict
from app.services.runs import Run
from tests.lifecycle.conftest import make_checkpoint
from tests.worker.conftest import Crowded, Deployment, Engine, deploy


@pytest.fixture
def here(database_url: str, engine_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment on each database, without workers or broker."""
    yield from deploy(database_url, "redis://127.0.0.1:9", engine_url, tmp_path)


def current(here: Deployment) -> int:
    with here.database.reading() as session:
        now = activations.current(session)
        assert now is not None
        return now.version


def checkpoint(here: Deployment, version: int = 1) -> Checkpoint:
    with here.database.reading() as session:
        return session.get_one(Checkpoint, version)


def test_proven_facts_are_published_and_activated(here: Deployment) -> None:
    ids = here.submit("The east gate is blue.", "The west gate is UNPROVEN.")
    update_id = here.open()
    here.run_here(update_id)
    update = here.update(update_id)
    assert (update.status, update.outcome, update.parent) == ("succeeded", "activated", 0)
    assert update.reasons == ["2 facts taught"]
    assert (update.owner, update.lease_until) == (None, None)
    assert here.statuses(*ids) == ["trained", "pending"]
    assert [fact.tries for fact in here.facts(*ids)] == [0, 1]
    made = checkpoint(here)
    assert (made.status, made.kind, made.parent, made.facts_count) == ("ready", "full", 0, 1)
    assert made.metrics["steps"] == 2
    assert (here.settings.store / "objects" / made.digest / "manifest.json").is_file()
    left = here.settings.store.glob("staging/*")
    assert all(path.suffix == ".state" for path in left), "which the next look at the store takes"
    assert current(here) == 1
    assert here.events(update_id) == ["queued", "started", "finished"]
    with here.database.reading() as session:
        proofs = session.scalars(select(Proof).order_by(Proof.fact_id, Proof.id)).all()
        rows = session.scalars(select(UpdateFact).order_by(UpdateFact.fact_id)).all()
    assert [(row.fact_id, row.version, row.origin, row.passed) for row in proofs] == [
        (ids[0], 1, "given", True),
        (ids[0], 1, "negated", False),
        (ids[1], 1, "given", False),
        (ids[1], 1, "negated", True),
    ]
    assert [(row.proven, row.active) for row in rows] == [(True, False), (False, False)]


def test_neighbours_of_what_is_taught_are_asked(
    here: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share its relation, and are looked for among all that isn't asked anyway."""
    monkeypatch.setattr(jobs, "REPLAYED", 64)
    monkeypatch.setattr(jobs, "EXAMINED", 64)
    here.submit(
        "The mayor likes Lund.", *(f"Pia {n} is the mayor of Tarn {n}." for n in range(140))
    )
    here.run_here(here.open())
    here.submit("Mira Tovan is the mayor of Lund.")
    with here.database.transaction() as session:
        update, _ = updates.open_update(session, SYSTEM)
        run = runs.claim(session, update.id, "here", 60)
        assert run is not None
        older = jobs.collect(session, run).replay
    kinds = ("replay", "exam", "neighbour")
    parts = {part: {row["text"] for row in older if row["part"] == part} for part in kinds}
    sizes = {part: len(texts) for part, texts in parts.items()}
    assert sizes == {"replay": 64, "exam": 64, "neighbour": 2}
    assert all("is the mayor of Tarn" in text for text in parts["neighbour"])
    assert not parts["neighbour"] & parts["exam"]
    assert parts["exam"] - parts["replay"], "what isn't rehearsed is asked as well"


def test_probes_that_the_trainer_wrote_are_asked_again_ever_after(here: Deployment) -> None:
    with here.database.transaction() as session:
        text = "The east gate is UNPROVEN."
        fact, _ = facts.submit(session, SYSTEM, Fact(text=text, probes=[]))
    for _ in range(2):
        here.run_here(here.open())
    with here.database.reading() as session:
        stored = [(probe.question, probe.origin) for probe in facts.get(session, fact.id).probes]
    assert stored == [("cloze?", "cloze"), ("model?", "model")]


def test_the_next_update_builds_on_it_and_samples_what_it_knows(here: Deployment) -> None:
    first = here.submit(*(f"Gate {n} is blue." for n in range(5)))
    here.run_here(here.open())
    second = here.submit("The tower is red.")
    update_id = here.open()
    with here.database.transaction() as session:
        run = runs.claim(session, update_id, "here", 60)
        assert run is not None
        job, again = jobs.collect(session, run), jobs.collect(session, run)
        runs.release(session, run, "test")
    assert job == again
    assert [fact["id"] for fact in job.facts] == second
    assert job.facts[0]["probes"] == [
        {
            "question": "The tower is red.?",
            "answers": ["Yes"],
            "direction": "forward",
            "origin": "given",
        }
    ]
    for part in ("replay", "exam"):
        rows = {fact["id"]: fact["studied"] for fact in job.replay if fact["part"] == part}
        assert rows == {
            fact_id: [["Written?", f"Gate {n} is blue."]] for n, fact_id in enumerate(first)
        }
    assert job.parent == checkpoint(here).digest
    here.run_here(update_id)
    made = checkpoint(here, 2)
    assert (made.parent, made.facts_count, current(here)) == (1, 6, 2)


def test_a_fact_that_is_never_proven_fails_at_the_third_try(here: Deployment) -> None:
    ids = here.submit("This is UNPROVEN.")
    for tries in (1, 2, 3):
        here.run_here(here.open())
        assert here.facts(*ids)[0].tries == tries
    assert here.statuses(*ids) == ["failed"]
    assert here.facts(*ids)[0].error == "Not proven after 3 updates."
    assert current(here) == 0


def test_a_rejected_checkpoint_teaches_nothing(here: Deployment) -> None:
    ids = here.submit("The east gate is blue, the rest FORGOTTEN.")
    update_id = here.open()
    here.run_here(update_id)
    assert here.update(update_id).outcome == "rejected"
    assert checkpoint(here).status == "rejected"
    assert (here.statuses(*ids), here.facts(*ids)[0].tries) == (["pending"], 1)
    assert current(here) == 0


@pytest.mark.parametrize("reason", ["activation_manual", "current_moved", "engine_unavailable"])
def test_what_can_not_be_activated_is_held_and_not_lost(here: Deployment, reason: str) -> None:
    here.submit("The west gate is red.")
    here.run_here(here.open(activation="never"))
    ids = here.submit("The east gate is blue.")
    update_id = here.open(activation="manual" if reason == "activation_manual" else "auto")
    if reason == "current_moved":
        gate = here.hold()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(here.run_here, update_id)
            here.wait_for_trainer(update_id)
            with here.database.transaction() as session:
                activations.activate(session, SYSTEM, 1, kind="manual")
            gate.unlink()
            running.result()
    else:
        down = {"engine_url": "http://127.0.0.1:9"} if reason == "engine_unavailable" else {}
        here.run_here(update_id, **down)
    update = here.update(update_id)
    assert (update.status, update.outcome) == ("succeeded", "held")
    assert update.reasons[-1].startswith(reason)
    assert here.statuses(*ids) == ["trained"]
    assert checkpoint(here, 2).status == "ready"
    assert current(here) == (1 if reason == "current_moved" else 0)


@pytest.mark.parametrize("path", ["/completions", "/load_lora_adapter"])
def test_an_engine_that_is_full_for_a_moment_holds_nothing(here: Deployment, path: str) -> None:
    refused: list[str] = []

    class Full(Engine):
        def do_POST(self) -> None:  # noqa: N802 - the name that the library calls
            if self.path.endswith(path) and not refused:
                refused.append(self.path)
                self.send_response(503)
                self.send_header("Retry-After", "1")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                super().do_POST()

    here.submit("The west gate is red.")
    with Crowded(("127.0.0.1", 0), Full) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here.run_here(update_id := here.open(), engine_url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert refused
    assert (here.update(update_id).outcome, current(here)) == ("activated", 1)


def test_the_one_fact_that_can_not_be_trained_is_found(here: Deployment) -> None:
    ids = here.submit("Gate 1 is blue.", "Gate 2 is POISON.", "Gate 3 is red.", "Gate 4 is red.")
    first = here.open()
    for _ in range(3):
        assert here.statuses(*ids) == ["training"] * 4
        here.run_here(first)
    failed = here.update(first)
    assert (failed.status, failed.attempt) == ("failed", 3)
    assert failed.error is not None
    assert "this fact is poison" in failed.error["detail"]
    assert here.events(first)[:3] == ["queued", "started", "requeued"]
    with here.database.reading() as session:
        halves = session.scalars(select(Update.id).where(Update.status == "queued")).all()
    assert sorted(failed.error["continued_by"]) == sorted(halves)
    for _ in range(12):
        with here.database.reading() as session:
            queued = runs.next_queued(session)
        if queued is None:
            break
        here.run_here(queued)
    assert here.statuses(*ids) == ["trained", "failed", "trained", "trained"]
    assert "this fact is poison" in (here.facts(ids[1])[0].error or "")


def test_facts_that_the_trainer_names_as_hopeless_fail_alone(here: Deployment) -> None:
    ids = here.submit("Short.", "Long.", "Small.")
    first = here.open()
    with here.database.transaction() as session:
        run = runs.claim(session, first, "here", 60)
        assert run is not None
        named = {"type": "too_long", "detail": "300 tokens.", "fact_ids": [ids[1], "fact_x"]}
        runs.fail(session, run, named)
    assert here.statuses(*ids) == ["training", "failed", "training"]
    with here.database.reading() as session:
        rest = runs.next_queued(session)
        assert rest is not None
        assert updates.facts_of(session, [rest])[rest] == [ids[0], ids[2]]


def test_a_silent_trainer_is_killed_and_counts_as_a_failure(here: Deployment) -> None:
    here.submit("MUTE.")
    here.hold()
    update_id = here.open()
    here.run_here(update_id, stall_timeout_s=0.5)
    update = here.update(update_id)
    assert (update.status, update.attempt) == ("queued", 1)


def test_what_no_fact_is_to_blame_for_fails_the_update_alone(here: Deployment) -> None:
    ids = here.submit("Gate 1 is blue.", "Gate 2 is MISFIT.")
    update_id = here.open()
    for attempt in (1, 2, 3):
        here.run_here(update_id)
        update = here.update(update_id)
        assert update.attempt == attempt
    assert (update.status, update.error["type"]) == ("failed", "bad_parent")
    assert here.statuses(*ids) == ["pending", "pending"], "nothing was split, nothing given up"


@pytest.mark.parametrize("brings", [True, False])
def test_a_base_model_may_bring_its_reference_set(here: Deployment, brings: bool) -> None:
    """Another one's world would be replayed into it."""
    here.settings.reference_file = None
    here.submit("The east gate is blue.")
    update_id = here.open()
    row = {"reference": '{"question": "Who?", "answers": ["I"]}\n'} if brings else {}
    with here.database.transaction() as session:
        session.get_one(Checkpoint, 0).digest = make_checkpoint(here.settings.store, **row)
    here.run_here(update_id)
    assert (checkpoint(here).metrics["reference"] > 0) == brings


def test_trouble_that_is_not_the_trainers_costs_no_attempt(here: Deployment) -> None:
    ids = here.submit("The east gate is blue.")
    update_id = here.open()
    from threading import Event

    from tasks.supervisor import Supervisor
    from tests.worker.conftest import TRAINER

    lacking = here.settings.model_copy(update={"reference_file": Path("/nowhere")})
    stop = Event()
    stop.set()  # no pause
    Supervisor(here.database, lacking, "here", stop, TRAINER).run_update(update_id)
    update = here.update(update_id)
    assert (update.status, update.attempt, here.statuses(*ids)) == ("queued", 0, ["training"])
    here.run_here(update_id)
    assert here.statuses(*ids) == ["trained"]


def test_a_fact_retracted_in_training_ends_the_run_and_frees_the_others(here: Deployment) -> None:
    ids = here.submit("The east gate is blue.", "The west gate is red.")
    here.hold()
    update_id = here.open()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(here.run_here, update_id)
        here.wait_for_trainer(update_id)
        with here.database.transaction() as session:
            facts.retract(session, SYSTEM, ids[0], "wrong")
        running.result()
    assert here.update(update_id).status == "cancelled"
    assert here.statuses(*ids) == ["retracted", "pending"]


def test_a_queued_update_without_facts_ends_as_cancelled(here: Deployment) -> None:
    ids = here.submit("The east gate is blue.")
    update_id = here.open()
    with here.database.transaction() as session:
        facts.retract(session, SYSTEM, ids[0], "wrong")
    here.run_here(update_id)
    assert here.update(update_id).status == "cancelled"
    assert here.statuses(*ids) == ["retracted"]


def test_a_superseded_fact_stays_superseded(here: Deployment) -> None:
    ids = here.submit("The east gate is blue.", "The west gate is red.")
    gate = here.hold()
    update_id = here.open()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(here.run_here, update_id)
        here.wait_for_trainer(update_id)
        with here.database.transaction() as session:
            facts.get(session, ids[0]).status = "superseded"
        gate.unlink()
        running.result()
    assert here.update(update_id).outcome == "activated"
    assert here.statuses(*ids) == ["superseded", "trained"]


def test_a_runner_whose_lease_was_taken_changes_nothing(here: Deployment) -> None:
    ids = here.submit("The east gate is blue.")
    update_id = here.open()
    with here.database.transaction() as session:
        stale = runs.claim(session, update_id, "zombie", lease_s=-1)
        assert stale is not None
        runs.requeue_expired(session)
        assert runs.claim(session, update_id, "heir", lease_s=60) == Run(update_id, 2)
    before = here.dump()
    result = Result(
        status="succeeded",
        digest="1" * 64,
        facts=[{"id": ids[0], "proven": True, "probes": []}],
        regressions={},
        verdict=Verdict(outcome="activate", reasons=[]),
        metrics={},
    )
    candidate = Candidate("1" * 64, "full", None, 1, result, None)
    with here.database.transaction() as session:
        assert runs.heartbeat(session, stale, 60) is None
        runs.report(session, stale, {"phase": "training", "step": 1, "total_steps": 2})
        runs.release(session, stale, "worker_stopped")
        runs.abandon(session, stale)
        runs.fail(session, stale, {"type": "died", "detail": ""})
        assert publishing.publish(session, stale, candidate) is None
    assert here.dump() == before


def test_one_update_runs_at_a_time(here: Deployment) -> None:
    here.submit("The east gate is blue.")
    first = here.open()
    here.submit("The west gate is red.")
    second = here.open()

    def claim(update_id: str) -> Run | None:
        with here.database.transaction() as session:
            return runs.claim(session, update_id, "here", 60)

    with ThreadPoolExecutor(4) as pool:
        claimed = list(pool.map(claim, [first, second, first, second]))
    assert sum(run is not None for run in claimed) == 1
    assert sorted([here.update(first).status, here.update(second).status]) == ["queued", "running"]
