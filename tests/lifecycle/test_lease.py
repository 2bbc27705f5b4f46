"""The lease while the database can't be reached, and once it has run out."""

import threading

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db import Database
from app.services import runs
from tasks.lease import Fenced, Lease
from tests.lifecycle.conftest import Lifecycle


def test_a_lease_is_lost_once_it_can_not_be_renewed_for_its_length(
    here: Lifecycle, tmp_path: object
) -> None:
    here.submit("One")
    update_id = here.deployment.open()
    with here.database.transaction() as session:
        run = runs.claim(session, update_id, "here", 60)
    assert run is not None
    away = Database(f"sqlite:///{tmp_path}/nowhere/almanac.db")
    patient = Lease(away, here.settings.model_copy(update={"lease_s": 60}), run, threading.Event())
    patient.renew()
    patient.check()
    hasty = Lease(away, here.settings.model_copy(update={"lease_s": 0}), run, threading.Event())
    hasty.renew()
    with pytest.raises(Fenced):
        hasty.check()
    # Reached again in time: still ours.
    back = here.settings.model_copy(update={"lease_s": 60})
    lease = Lease(here.database, back, run, threading.Event())
    lease.renew()
    lease.check()
    away.close()


def test_a_lost_run_is_taken_back_whatever_becomes_of_planning(here: Lifecycle) -> None:
    (gone, _) = here.learn("One", "Two")
    here.retract(gone)
    (rebuild,) = here.look()
    with here.database.transaction() as session:
        assert runs.claim(session, rebuild.id, "lost", lease_s=-1) is not None
        session.execute(text("ALTER TABLE proofs RENAME TO away"))
    with pytest.raises(DBAPIError):
        here.look()
    assert here.deployment.update(rebuild.id).status == "queued"
    with here.database.transaction() as session:
        session.execute(text("ALTER TABLE away RENAME TO proofs"))
    assert here.run(rebuild).outcome == "activated"
