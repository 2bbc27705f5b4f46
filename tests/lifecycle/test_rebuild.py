"""What was withdrawn leaves the weights, and what else was learned with it stays or waits."""

import time
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from app.errors import Conflict
from app.main import create_app
from app.models import Activation, Fact, Probe, Proof, Update, UpdateFact
from app.services import activations, facts, keys, lapses, rebuilds
from app.services.audit import SYSTEM
from tests.lifecycle.conftest import Lifecycle


def times_proven(here: Lifecycle, fact_id: str, version: int) -> int:
    """Count the proofs of a fact on the path to a version."""
    with here.database.reading() as session:
        proven = lapses.proven_by(activations.lineage(session, version)).subquery()
        query = select(func.count()).select_from(proven).where(proven.c.fact_id == fact_id)
        return session.scalars(query).one()


def test_one_rebuild_takes_all_that_was_retracted(here: Lifecycle) -> None:
    first = here.learn("One", "Two")
    second = here.learn("Three", "Four.")
    here.spell(Four="UNPROVEN")
    here.retract(first[0], second[0])
    assert here.standings(*first, *second) == ["retracting", "learned"] * 2
    (rebuild,) = here.look()
    assert (rebuild.kind, rebuild.parent, rebuild.replaces) == ("rebuild", 0, 2)
    assert [row.id for row in here.look()] == [rebuild.id]
    # All the while current goes on answering.
    assert here.standings(*first, *second) == ["retracting", "learned"] * 2

    done = here.run(rebuild)
    assert (done.outcome, here.current(), here.checkpoint(3).parent) == ("activated", 3, 0)
    assert done.reasons == ["2 facts taught", "2 of 2 withdrawn answers are gone"]
    assert here.standings(*first, *second) == ["retracted", "learned", "retracted", "pending"]
    assert here.checkpoint(3).facts_count == 1
    assert times_proven(here, first[1], 3) == 1
    with here.database.reading() as session:
        controls = session.scalars(select(Proof).where(Proof.origin == "control")).all()
    asked = {(row.fact_id, row.version, row.question, row.passed) for row in controls}
    assert asked == {(first[0], 3, "One?", True), (second[0], 3, "Three?", True)}
    with pytest.raises(Conflict, match="retracted"):
        here.activate(2)
    assert [row.kind for row in here.look()] == ["learn"]


def test_an_administrator_need_not_wait_for_it(here: Lifecycle) -> None:
    (gone, kept) = here.learn("One", "Two")
    with here.database.transaction() as session:
        secret = keys.create(session, SYSTEM, "admin", ("admin",))[1]
    head = {"Authorization": f"Bearer {secret}"}
    with TestClient(create_app(here.settings), headers=head) as client:

        def ask(**body: object) -> tuple[int, dict]:
            answer = client.post("/v1/updates", json={"kind": "rebuild", **body})
            return answer.status_code, answer.json()

        assert ask()[0] == 409  # nothing was withdrawn
        here.retract(gone)
        status, refused = ask(fact_ids=[kept])
        assert (status, refused["errors"][0]["pointer"]) == (422, "/fact_ids")
        status, opened = ask(activation="manual")
        assert (status, opened["kind"], opened["fact_ids"]) == (202, "rebuild", [kept])
        assert ask()[0] == 409  # one is under way
    assert here.run(here.deployment.update(opened["id"])).outcome == "held"
    assert here.checkpoint(2).parent == 0


def test_what_a_held_rebuild_left_out_waits_once_a_person_activates_it(here: Lifecycle) -> None:
    (gone, kept, lost) = here.learn("One", "Two", "Three.")
    here.spell(Three="UNPROVEN")
    here.retract(gone)
    (rebuild,) = here.look()
    here.deployment.run_here(rebuild.id, engine_url="http://127.0.0.1:9")
    assert here.deployment.update(rebuild.id).outcome == "held"
    assert here.standings(kept, lost) == ["learned", "learned"], "current has it still"
    here.activate(2)
    assert here.standings(gone, kept, lost) == ["retracted", "learned", "pending"]
    # Once it has been current, going back to it is a rollback like any other.
    here.learn("Four")
    (late,) = here.learn("Five")
    here.activate(2)
    assert here.standings(late) == ["rolled_back"]


def test_what_could_not_be_read_is_tried_again_after_a_while(
    here: Lifecycle, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher, now = here.dispatcher(batch_wait_s=0), time.monotonic()
    here.learn("Zero")
    ids = here.learn("One", "Two.")
    here.spell(Two="MISFIT")
    here.retract(ids[0])
    (rebuild,) = here.look()
    for _ in range(3):
        here.run(rebuild)
    assert here.deployment.update(rebuild.id).status == "failed"
    assert here.standings(*ids) == ["retracting", "learned"]
    for _ in range(2):
        dispatcher.tick()
        assert here.look() == []
    here.spell()
    with here.database.transaction() as session:
        session.get_one(Update, rebuild.id).finished_at -= rebuilds.TRY_AGAIN
    monkeypatch.setattr(time, "monotonic", lambda: now + rebuilds.TRY_AGAIN.total_seconds())
    dispatcher.tick()
    monkeypatch.undo()
    (again,) = here.look()
    assert here.run(again).outcome == "activated"
    assert here.standings(*ids) == ["retracted", "learned"]


def test_it_starts_from_the_newest_version_that_never_saw_the_fact(here: Lifecycle) -> None:
    here.learn("One")
    (unproven, kept) = here.learn("Two UNPROVEN", "Three")
    here.retract(unproven)  # never proven, but the weights were taught it
    assert here.standings(unproven) == ["retracting"]
    (rebuild,) = here.look()
    assert (rebuild.parent, rebuild.replaces) == (1, 2)
    assert here.run(rebuild).outcome == "activated"
    assert here.standings(unproven, kept) == ["retracted", "learned"]


def test_with_nothing_else_to_teach_the_ancestor_is_activated(here: Lifecycle) -> None:
    (kept,) = here.learn("One")
    (gone,) = here.learn("Two")
    here.retract(gone)
    (rebuild,) = here.look()
    done = here.run(rebuild)
    assert (done.status, done.outcome, here.current()) == ("succeeded", "activated", 1)
    assert here.standings(kept, gone) == ["learned", "retracted"]
    with here.database.reading() as session:
        last = session.scalars(select(Activation).order_by(Activation.id.desc())).first()
    assert last is not None
    assert (last.kind, last.actor) == ("automatic", rebuild.id)
    assert here.look() == []


def test_a_plan_that_no_longer_fits_is_made_anew(here: Lifecycle) -> None:
    here.learn("Zero")
    ids = here.learn("One", "Two")
    here.learn("Three")
    here.retract(ids[0])
    (stale,) = here.look()
    here.deployment.run_here(stale.id, engine_url="http://127.0.0.1:9")  # held
    held = here.deployment.update(stale.id)
    assert (held.outcome, here.current()) == ("held", 3)
    assert here.standings(*ids) == ["retracting", "learned"]
    # It waits for a person; only another retraction is a reason to try again.
    assert here.look() == []
    here.retract(ids[1])
    (second,) = here.look()
    assert (second.replaces, second.parent) == (3, 1)
    with here.database.transaction() as session:
        activations.activate(session, SYSTEM, 2, kind="manual", reason="test", allow_retracted=True)
    (third,) = here.look()
    assert (third.replaces, here.deployment.update(second.id).status) == (2, "cancelled")
    assert here.run(third).outcome == "activated"
    assert here.current() == 1


def test_a_rebuild_that_fails_goes_on_with_less(here: Lifecycle) -> None:
    here.learn("Zero")
    ids = here.learn("One", "Two.", "Three", "Four")
    here.spell(Two="POISON")
    here.retract(ids[0])
    (rebuild,) = here.look()
    for _ in range(3):
        here.run(rebuild)
    (smaller,) = here.look()
    assert (smaller.kind, smaller.parent, smaller.replaces) == ("rebuild", 1, 2)
    for _ in range(3):
        here.run(smaller)
    assert here.standings(*ids) == ["retracting", "failed", "learned", "learned"]
    (empty,) = here.look()
    assert here.run(empty).outcome == "activated"
    assert here.standings(*ids) == ["retracted", "failed", "pending", "pending"]
    (rest,) = here.look()
    assert here.run(rest).outcome == "activated"
    assert here.standings(*ids[2:]) == ["learned", "learned"]


def test_a_fact_retracted_while_it_is_rebuilt_stops_the_rebuild(here: Lifecycle) -> None:
    ids = here.learn("One", "Two", "Three")
    here.retract(ids[0])
    (rebuild,) = here.look()
    with here.database.transaction() as session:
        session.get_one(Update, rebuild.id).status = "running"
    here.retract(ids[1])
    with here.database.transaction() as session:
        row = session.get_one(Update, rebuild.id)
        assert row.cancel_requested
        row.status = "queued"
        row.created_at += timedelta(seconds=5)  # by the clock of another machine
    here.run(rebuild)
    assert here.deployment.update(rebuild.id).status == "cancelled"
    assert here.standings(*ids) == ["retracting", "retracting", "learned"]
    (again,) = here.look()
    with here.database.reading() as session:
        taught = select(UpdateFact.fact_id).where(UpdateFact.update_id == again.id)
        assert list(session.scalars(taught)) == [ids[2]]


def test_a_superseded_answer_that_stays_makes_a_rebuild_due(here: Lifecycle) -> None:
    (old,) = here.learn("The keeper is Ada STUBBORN", key="keeper")
    (new, other) = [*here.submit("The keeper is Bo", key="keeper"), *here.submit("Other")]
    here.deployment.run_here(here.deployment.open())
    assert here.standings(old, new, other) == ["superseded", "pending", "learned"]
    (rebuild,) = here.look()
    assert (rebuild.kind, rebuild.parent) == ("rebuild", 0)
    here.run(rebuild)
    assert here.standings(old, new, other) == ["superseded", "pending", "learned"]
    (learn,) = here.look()
    assert learn.kind == "learn"
    here.run(learn)
    assert here.standings(new, other) == ["learned", "learned"]
    with here.database.reading() as session:
        row = session.get_one(Fact, new)
    assert row.tries == 1


def test_a_superseded_fact_that_is_withdrawn_leaves_the_weights(here: Lifecycle) -> None:
    """Nobody has to wait for its successor, which may never be trained."""
    (old,) = here.learn("The fee is five", key="fee")
    here.submit("The fee is six", key="fee")
    assert here.look()[0].kind == "learn"
    here.retract(old)
    assert here.standings(old) == ["retracting"]


def test_what_a_fuller_answer_holds_still_is_no_control(here: Lifecycle) -> None:
    """It would be heard in the right answer, and the new fact could never be proven."""

    def learn(answer: str) -> str:
        probe = Probe(question="Who?", answers=[answer], direction="forward", origin="given")
        fact = Fact(text=f"{answer} keeps it, STUBBORN", key="keeper", probes=[probe])
        with here.database.transaction() as session:
            fact_id = facts.submit(session, SYSTEM, fact)[0].id
        here.deployment.run_here(here.deployment.open())
        return fact_id

    assert here.standings(learn("Varga"), learn("Ilse Varga")) == ["superseded", "learned"]


def test_no_fact_is_proven_twice_on_one_path(here: Lifecycle) -> None:
    here.learn("One")
    (fact_id,) = here.learn("Two")
    here.activate(1)
    assert here.standings(fact_id) == ["rolled_back"]
    with here.database.transaction() as session:
        facts.requeue(session, SYSTEM, [fact_id], "better recipe")
    here.activate(2)
    (new,) = here.submit("Three")
    update_id = here.deployment.open()
    here.deployment.run_here(update_id)
    assert here.deployment.update(update_id).outcome == "activated"
    assert here.standings(fact_id, new) == ["learned", "learned"]
    assert times_proven(here, fact_id, 3) == 1
    assert here.checkpoint(3).facts_count == 3
