"""The lease while the database can't be reached."""

import threading

import pytest

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
