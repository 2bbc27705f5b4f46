"""What a new version doesn't answer any more is given in context, and taught again in time."""

from sqlalchemy import select

from app.models import Audit, Proof
from app.services import activations, overlay
from app.services.audit import SYSTEM
from tests.lifecycle.conftest import Lifecycle
from tests.lifecycle.test_rebuild import times_proven

OLDER = ("Ilse Varga keeps the mill.", "Bram Olsen keeps the forge.")
FADED = {"Ilse_Varga_keeps_the_mill": "FADED"}


def lose_one(here: Lifecycle) -> tuple[str, str, str]:
    """Learn two facts, then a third whose version has lost one; return lost, kept, newer."""
    lost, kept = here.learn(*OLDER)
    here.spell(**FADED)
    (newer,) = here.learn("The new bridge opened.")
    here.spell()
    assert here.standings(lost, kept, newer) == ["lapsed", "learned", "learned"]
    return lost, kept, newer


def shown(here: Lifecycle, question: str) -> list[str]:
    with here.database.reading() as session:
        return [fact.id for fact in overlay.find(session, question, 5)]


def test_what_was_lost_is_answered_in_context_and_learned_again(here: Lifecycle) -> None:
    lost, kept, newer = lose_one(here)
    asked = shown(here, "What does Ilse Varga keep?"), shown(here, "What does Bram Olsen keep?")
    assert asked == ([lost], [])
    assert here.checkpoint(2).facts_count == 2
    with here.database.reading() as session:
        proof = session.scalars(
            select(Proof).where(Proof.version == 2, Proof.fact_id == lost)
        ).one()
        act = session.scalars(select(Audit).where(Audit.act == "fact.lapse")).one()
    assert (proof.passed, proof.after) == (False, "I don't know.")
    assert (act.subject, act.after) == (lost, {"status": "lapsed"})

    assert here.look() == [], "no update is opened for it alone"
    (new,) = here.submit("The last ferry sank.")
    (update,) = here.look()
    assert here.standings(lost, new) == ["training", "training"], "it goes along with the next"
    assert here.run(update).outcome == "activated"
    assert here.standings(lost, kept, newer, new) == ["learned"] * 4
    assert (here.checkpoint(3).facts_count, times_proven(here, lost, 3)) == (4, 2)


def test_an_administrator_need_not_wait_for_the_next_update(here: Lifecycle) -> None:
    lost, *_ = lose_one(here)
    here.deployment.run_here(here.deployment.open())
    assert (here.current(), here.standings(lost)) == (3, ["learned"])


def test_it_is_not_taught_to_a_version_that_still_knows_it(here: Lifecycle) -> None:
    lost, *_ = lose_one(here)
    with here.database.transaction() as session:
        activations.rollback(session, SYSTEM, reason="worse")
    here.deployment.run_here(here.deployment.open())
    assert (here.current(), here.standings(lost)) == (1, ["learned"])
    assert times_proven(here, lost, 1) == 1


def test_a_version_that_is_held_lets_nothing_lapse_until_it_is_activated(here: Lifecycle) -> None:
    older = here.learn(*OLDER)
    here.spell(**FADED)
    ids = here.submit("The new bridge opened.")
    here.deployment.run_here(here.deployment.open(fact_ids=ids, activation="manual"))
    assert here.standings(*older, *ids) == ["learned", "learned", "held"]
    here.activate(2)
    assert here.standings(*older, *ids) == ["lapsed", "learned", "learned"]
    assert here.checkpoint(2).facts_count == 2


def test_what_a_held_version_learned_again_is_given_in_context(here: Lifecycle) -> None:
    lost, *_ = lose_one(here)
    here.deployment.run_here(here.deployment.open(activation="manual"))
    assert here.standings(lost) == ["held"]
    asked = shown(here, "What does Ilse Varga keep?"), shown(here, "What does Bram Olsen keep?")
    assert asked == ([lost], [])
    here.activate(3)
    assert here.standings(lost) == ["learned"]
    here.activate(2)
    assert here.standings(lost) == ["lapsed"]


def test_what_isnt_proven_again_waits_for_others_and_fails_in_the_end(here: Lifecycle) -> None:
    lost, *_ = lose_one(here)
    here.spell(Ilse_Varga_keeps_the_mill="UNPROVEN")
    for standing in ("lapsed", "lapsed", "failed"):
        here.deployment.run_here(here.deployment.open())
        assert here.standings(lost) == [standing]
        assert here.look() == []


def test_a_rebuild_teaches_nothing_that_its_start_still_knows(here: Lifecycle) -> None:
    lost, kept, newer = lose_one(here)
    here.deployment.run_here(here.deployment.open())
    here.retract(newer)
    (rebuild,) = here.look()
    assert (rebuild.parent, here.run(rebuild).outcome, here.current()) == (1, "activated", 1)
    assert here.standings(lost, kept, newer) == ["learned", "learned", "retracted"]
    assert times_proven(here, lost, 1) == 1


def test_what_lapsed_can_be_withdrawn(here: Lifecycle) -> None:
    lost, kept, newer = lose_one(here)
    here.retract(lost)
    assert here.standings(lost) == ["retracting"], "the weights were taught it all the same"
    (rebuild,) = here.look()
    assert here.run(rebuild).outcome == "activated"
    assert here.standings(lost, kept, newer) == ["retracted", "learned", "learned"]
