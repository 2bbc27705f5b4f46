"""The ledger of what is current: one winner, nothing lost, rollback by its rule."""

import threading

import pytest
from sqlalchemy import func, select

from app.db import Database
from app.errors import Conflict, NotFound, Unavailable
from app.models import Activation, Audit
from app.services import activations, checkpoints
from app.services.activations import CurrentMoved
from app.services.audit import Actor
from tests.answers.conftest import add_fact, add_version, learn

ANNA = Actor("anna")


@pytest.fixture
def ledger(database: Database) -> Database:
    """Versions 0 (current) <- 1 <- 2, and 3 beside them over 0."""
    with database.transaction() as session:
        checkpoints.register_base(session, "0" * 64, 12)
        for version, parent in ((1, 0), (2, 1), (3, 0)):
            add_version(session, version, parent)
    return database


def go(database, version, **options):
    options = {"kind": "manual", "reason": "because", **options}
    with database.transaction() as session:
        return activations.activate(session, ANNA, version, **options)


def back(database, **options):
    with database.transaction() as session:
        return activations.rollback(session, ANNA, reason="worse", **options)


def now(database):
    with database.reading() as session:
        return activations.current(session).version


def test_the_base_is_registered_once(database):
    for _ in range(2):
        with database.transaction() as session:
            assert checkpoints.register_base(session, "a" * 64, 12).version == 0
    with database.reading() as session:
        assert activations.current(session).kind == "initial"
        assert session.scalar(select(func.count()).select_from(Activation)) == 1
    with pytest.raises(Conflict, match="fresh data directory"), database.transaction() as session:
        checkpoints.register_base(session, "b" * 64, 12)


def test_activation_says_who_and_why(ledger):
    row = go(ledger, 1, expected_current=0)
    assert (row.version, row.kind, row.actor, row.reason) == (1, "manual", "anna", "because")
    with ledger.reading() as session:
        act = session.scalars(select(Audit).where(Audit.subject == "v1")).one()
        assert (act.act, act.reason, act.before) == (
            "checkpoint.activate",
            "because",
            {"version": 0},
        )


def test_the_present_version_again_changes_nothing(ledger):
    first = go(ledger, 1)
    assert go(ledger, 1).id == first.id
    with ledger.reading() as session:
        assert session.scalar(select(func.count()).select_from(Activation)) == 2


def test_what_cannot_become_current(ledger):
    with ledger.transaction() as session:
        add_version(session, 4, 0, status="rejected")
    with pytest.raises(NotFound):
        go(ledger, 9)
    with pytest.raises(Conflict, match="rejected"):
        go(ledger, 4)
    with pytest.raises(CurrentMoved, match="it is version 0"):
        go(ledger, 1, expected_current=2)
    assert now(ledger) == 0


def test_of_many_that_saw_the_same_current_one_wins(ledger):
    """Each of the racers expects version 0: whatever the timing, one row follows the first."""
    start = threading.Barrier(6)
    outcomes: list[str] = []

    def race(version):
        start.wait()
        try:
            go(ledger, version, expected_current=0)
            outcomes.append("won")
        except CurrentMoved:
            outcomes.append("lost")

    racers = [threading.Thread(target=race, args=(1 + n % 3,)) for n in range(6)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(outcomes) == ["lost"] * 5 + ["won"]


def test_a_loser_keeps_a_usable_transaction(ledger):
    """A predecessor that already has a successor is refused by the database, inside a savepoint."""
    with ledger.transaction() as session:
        stale = activations.current(session)
    go(ledger, 1)
    with ledger.transaction() as session:
        row = Activation(previous_id=stale.id, version=2, kind="automatic", actor="update_1")
        with pytest.raises(CurrentMoved):
            activations.append(session, row)
        checkpoints.change(session, ANNA, 2, {"label": "held"})
    assert now(ledger) == 1
    with ledger.reading() as session:
        assert checkpoints.get(session, 2).label == "held"


def test_rollback_goes_to_what_the_last_activation_replaced(ledger):
    go(ledger, 1)
    go(ledger, 2)
    assert back(ledger).version == 1
    with pytest.raises(Conflict, match="current already"):
        back(ledger)
    assert back(ledger, to=0).version == 0
    assert back(ledger).version == 1  # still what version 2's activation replaced
    go(ledger, 3)
    assert back(ledger).version == 1


def test_nothing_to_roll_back_to(ledger):
    with pytest.raises(Conflict, match="nothing to roll back to"):
        back(ledger)
    with pytest.raises(CurrentMoved):
        back(ledger, to=1, expected_current=2)


def test_lineage_follows_parents_only(ledger):
    with ledger.reading() as session:
        assert activations.lineage(session, 2) == {0, 1, 2}
        assert activations.lineage(session, 3) == {0, 3}
        assert activations.lineage(session, 9) == set()
        assert activations.ever_current(session) == {0}
    go(ledger, 2)
    go(ledger, 0)
    with ledger.reading() as session:
        assert activations.ever_current(session) == {0, 1, 2}


@pytest.mark.parametrize("proven", [True, False])
def test_a_version_that_learned_a_retracted_fact_is_refused(ledger, proven):
    with ledger.transaction() as session:
        fact = add_fact(session, "Orla Venn founded Brack.", "retracted")
        learn(session, fact, 1, proven=proven)
    with pytest.raises(Conflict, match="allow_retracted"):
        go(ledger, 2)
    with pytest.raises(Conflict, match="allow_retracted"):
        back(ledger, to=1)
    assert go(ledger, 3).version == 3
    assert go(ledger, 2, allow_retracted=True).version == 2


def test_nothing_answers_before_the_base_is_registered(database):
    with database.reading() as session, pytest.raises(Unavailable, match="No base model"):
        checkpoints.resolve(session, None)


def test_an_update_after_a_retraction_is_activated(ledger):
    """It goes on from current, which contains the fact already; going back to it is refused."""
    with ledger.transaction() as session:
        fact = add_fact(session, "Orla Venn founded Brack.", "trained")
        learn(session, fact, 1)
    go(ledger, 1, kind="automatic", expected_current=0)
    with ledger.transaction() as session:
        session.merge(fact).status = "retracted"
    assert go(ledger, 2, kind="automatic", expected_current=1).version == 2
    with pytest.raises(Conflict, match="allow_retracted"):
        back(ledger)
    go(ledger, 3)
    with pytest.raises(Conflict, match="allow_retracted"):
        go(ledger, 1, kind="automatic")
