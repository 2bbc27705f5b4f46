"""What was withdrawn leaves the weights, and what else was learned with it stays or waits."""

import time
from collections.abc import Sized
from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import event, func, insert, select

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
    let_time_pass(here, rebuild)
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


@pytest.mark.parametrize("word", ["", "POISON"])
def test_what_is_activated_all_the_same_is_rebuilt_again(here: Lifecycle, word: str) -> None:
    """Also where its first rebuild had failed, and a smaller one went on."""
    ids = here.learn("One", "Two", "Three.")
    here.spell(Three=word)
    here.retract(ids[0])
    for made in (2, 3):
        while here.standings(ids[0]) == ["retracting"]:
            (rebuild,) = here.look()
            assert (rebuild.kind, rebuild.replaces) == ("rebuild", 1)
            here.run(rebuild)
        assert here.current() == made
        allow_retracted(here, 1)


def allow_retracted(here: Lifecycle, version: int) -> None:
    with here.database.transaction() as session:
        activations.activate(
            session, SYSTEM, version, kind="manual", reason="test", allow_retracted=True
        )


@pytest.mark.parametrize("others", [[], ["Two"]])
def test_what_no_engine_could_serve_is_tried_again_after_a_while(
    here: Lifecycle, others: list[str]
) -> None:
    here.learn("Zero")
    (gone, *_) = here.learn("One", *others)
    here.retract(gone)
    (rebuild,) = here.look()
    here.deployment.run_here(rebuild.id, engine_url="http://127.0.0.1:9")
    held = here.deployment.update(rebuild.id)
    assert held.outcome == "held"
    assert held.reasons[-1].startswith("engine_unavailable")
    assert here.look() == []
    let_time_pass(here, held)
    (again,) = here.look()
    assert here.run(again).outcome == "activated"
    assert here.standings(gone) == ["retracted"]


def let_time_pass(here: Lifecycle, ended: Update) -> None:
    with here.database.transaction() as session:
        session.get_one(Update, ended.id).finished_at -= rebuilds.TRY_AGAIN


def test_a_plan_that_no_longer_fits_is_made_anew(here: Lifecycle) -> None:
    here.learn("Zero")
    ids = here.learn("One", "Two.")
    here.learn("Three.")
    here.spell(Two="UNPROVEN", Three="UNPROVEN")
    here.retract(ids[0])
    (stale,) = here.look()
    held = here.run(stale)
    assert (held.outcome, here.current()) == ("held", 3)
    assert here.standings(*ids) == ["retracting", "learned"]
    # It waits for a person; only another retraction is a reason to try again.
    let_time_pass(here, held)
    assert here.look() == []
    here.retract(ids[1])
    (second,) = here.look()
    assert (second.replaces, second.parent) == (3, 1)
    allow_retracted(here, 2)
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


def test_it_is_due_as_well_where_nothing_could_be_learned_over_the_old_answer(
    here: Lifecycle,
) -> None:
    (old,) = here.learn("The keeper is Ada STUBBORN", key="keeper")
    here.submit("The keeper is Bo", key="keeper")
    (learn,) = here.look()
    assert (here.run(learn).outcome, here.current()) == ("held", 1)
    (rebuild,) = here.look()
    assert (rebuild.kind, rebuild.parent, here.standings(old)) == ("rebuild", 0, ["superseded"])


def test_what_a_held_version_no_longer_answers_current_may(here: Lifecycle) -> None:
    here.learn("Ada.", key="keeper")
    here.spell(Ada="STUBBORN")
    (new, other) = [*here.submit("Bo", key="keeper"), *here.submit("Other")]
    here.deployment.run_here(here.deployment.open())
    assert (here.current(), here.standings(new, other)) == (2, ["pending", "learned"])
    here.spell()
    here.deployment.run_here(here.deployment.open(activation="never"))
    assert (here.current(), here.standings(new)) == (2, ["held"])
    (rebuild,) = here.look()
    assert (rebuild.kind, rebuild.replaces, rebuild.parent) == ("rebuild", 2, 0)
    assert (here.run(rebuild).outcome, here.current()) == ("activated", 4)
    for version in (2, 1):  # whoever goes back stays there
        here.activate(version)
        assert here.look() == []


def test_a_rebuild_asks_what_its_start_was_taught_and_others_replaced(here: Lifecycle) -> None:
    (old,) = here.learn("Ann.", key="mayor")
    (new, gone) = [*here.submit("Bob", key="mayor"), *here.submit("Gone")]
    here.deployment.run_here(here.deployment.open())
    assert here.standings(old, new, gone) == ["superseded", "learned", "learned"]
    here.retract(gone)
    (first,) = here.look()
    assert first.parent == 1
    here.spell(Ann="STUBBORN KNOWN")
    assert here.run(first).reasons[-1] == "nothing_learned"
    assert controls(here, 3) == {(old, False), (gone, True)}
    # So it has to start before that; what answers there wasn't taught.
    (second,) = here.look()
    assert second.parent == 0
    assert here.run(second).outcome == "activated"
    assert controls(here, 4) == {(old, True), (gone, True)}
    assert here.standings(old, new, gone) == ["superseded", "learned", "retracted"]


def controls(here: Lifecycle, version: int) -> set[tuple[str, bool]]:
    with here.database.reading() as session:
        asked = (Proof.origin == "control", Proof.version == version)
        return {(row.fact_id, row.passed) for row in session.scalars(select(Proof).where(*asked))}


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

    first = learn("Varga")
    (gone,) = here.submit("Gone")
    assert here.standings(first, second := learn("Ilse Varga")) == ["superseded", "learned"]
    here.retract(gone)
    (rebuild,) = here.look()
    assert (rebuild.parent, here.run(rebuild).outcome) == (1, "activated")
    assert here.standings(first, second, gone) == ["superseded", "learned", "retracted"]


def test_any_number_of_facts_can_be_withdrawn_at_once(here: Lifecycle) -> None:
    """A statement takes 65,535 parameters on Postgres: none may have one for each fact."""
    many = [f"fact_{number}" for number in range(1_200)]
    (kept,) = here.learn("Kept")
    shared = {"text": "STUBBORN", "status": "retracted"}
    probe = {"question": "?", "answers": ["Yes"], "direction": "forward"}
    with here.database.transaction() as session:
        learn = session.scalars(select(Update.id)).one()
        taught = {"update_id": learn, "active": False, "proven": True}
        session.execute(insert(Fact), [{**shared, "id": f, "text_digest": f} for f in many])
        session.execute(insert(Probe), [{**probe, "fact_id": f} for f in many])
        session.execute(insert(UpdateFact), [{**taught, "fact_id": f} for f in many])
    most = 0

    def count(_: object, __: object, statement: str, parameters: Sized, *___: object) -> None:
        nonlocal most
        if not statement.startswith("INSERT"):  # whose rows SQLAlchemy sends in parts
            most = max(most, len(parameters))

    event.listen(here.database.engine, "before_cursor_execute", count)
    (rebuild,) = here.look()
    assert here.run(rebuild).reasons[-1] == "0 of 1200 withdrawn answers are gone"
    assert (here.current(), here.standings(kept, *many[:1])) == (2, ["learned", "retracted"])
    assert 0 < most < len(many)


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
