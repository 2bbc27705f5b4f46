"""The worker's look at the database, every second: what is due, lost, waiting or left over.

Every worker does this; no leader is needed, since each step is harmless when done twice.
"""

import logging
import shutil
import threading
import time

from sqlalchemy.orm import Session

from app import queue
from app.config import Settings
from app.crash import crash_point
from app.db import Database
from app.lm.disposal import discard, list_digests
from app.models import Update
from app.services import (
    activations,
    consolidations,
    disposal,
    events,
    health,
    idempotency,
    rebuilds,
    runs,
    updates,
    vllm,
    waiting,
)
from tasks.supervisor import Supervisor

LOOKS_PER_CLEARING = 60
PATIENCE = 3  # looks that a message may take before the worker helps itself
log = logging.getLogger(__name__)


class Slot:
    """This worker's place for one running update."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._free = threading.Lock()

    def run_update(self, update_id: str) -> None:
        """Run an update here, or do nothing while another one runs here."""
        if not self._free.acquire(blocking=False):
            return
        try:
            self._supervisor.run_update(update_id)
        finally:
            self._free.release()

    def wait(self) -> None:
        """Return when nothing runs here any more."""
        with self._free:
            pass


class Dispatcher:
    """Opens updates, takes lost ones back, runs those that no message reached, clears out."""

    def __init__(self, database: Database, settings: Settings, owner: str, slot: Slot) -> None:
        self._database, self._settings, self._owner, self._slot = database, settings, owner, slot
        self._waiting: tuple[str | None, int] = (None, 0)
        self._looks = 0
        self._settled: object = None  # the state in which no rebuild was needed

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop; trouble is logged and met again a tick later."""
        while not stop.wait(self._settings.tick_s):
            try:
                self.tick()
            except Exception:  # whatever it is, the next look may succeed
                log.exception("this look at the database failed")

    def tick(self) -> None:
        """Look once; every step is harmless when repeated or when another worker did it.

        What was begun goes on whatever becomes of planning what is next.
        """
        with self._database.transaction() as session:
            health.note_worker(session, self._owner)
            runs.requeue_expired(session)
            queued = runs.next_queued(session)
        self._help_out(queued)
        with self._database.transaction() as session:
            opened = self._open_due(session)
            if opened is not None:
                crash_point("opening")
        if opened is not None:
            crash_point("opened")
            queue.poke(self._settings, opened.id)
        self._sweep()
        self._looks += 1
        if self._looks % LOOKS_PER_CLEARING == 0:
            self.clear_out()

    def clear_out(self) -> None:
        """Remove what is too old to matter: replies, events, checkpoints that nobody needs.

        Facts that current has lost lapse now, if somebody was changing them at its activation.
        """
        settings = self._settings
        with self._database.transaction() as session:
            idempotency.sweep(session)
            events.sweep(session, settings.events_keep_days)
            activations.look_for_lapses(session)
            disposal.mark(
                session, keep_activated=settings.keep_activated, grace_s=settings.gc_grace_s
            )
        with self._database.reading() as session:
            leaving = disposal.list_deleting(session)
        for checkpoint in leaving:
            discard(settings.store, checkpoint.digest)
            with self._database.transaction() as session:
                disposal.finish(session, checkpoint.version)
        # Listed first: what is found was published before the updates are looked at.
        digests = list_digests(settings.store)
        with self._database.reading() as session:
            orphans = disposal.find_orphans(session, digests)
        for digest in orphans:
            discard(settings.store, digest)

    def _open_due(self, session: Session) -> Update | None:
        """Open what is due; what was withdrawn leaves the weights before anything is added."""
        settings = self._settings
        rebuilds.drop_stale(session)
        consolidations.drop_stale(session)
        if updates.has_live(session):
            return None
        if (opened := self._open_rebuild(session)) is not None:
            return opened
        if (opened := self._open_consolidation(session)) is not None:
            return opened
        due = waiting.is_due(session, facts=settings.batch_facts, wait_s=settings.batch_wait_s)
        recipe = vllm.fit_recipe(settings)
        return updates.open_oldest(session, settings.batch_cap, recipe) if due else None

    def _open_consolidation(self, session: Session) -> Update | None:
        if self._settings.engine_kind == "vllm":  # it would have to be started anew
            return None
        return consolidations.open_due(session, self._settings.consolidate_after)

    def _open_rebuild(self, session: Session) -> Update | None:
        # What is refused now may be tried again after a while, so nothing is settled for longer.
        period = time.monotonic() // rebuilds.TRY_AGAIN.total_seconds()
        state = (*rebuilds.read_state(session), period)
        if state == self._settled:
            return None
        found = rebuilds.plan_due(session)
        if found is None:
            self._settled = state
            return None
        wait_s, recipe = self._settings.batch_wait_s, vllm.fit_recipe(self._settings)
        return rebuilds.open_planned(session, found, wait_s, recipe)

    def _help_out(self, queued: str | None) -> None:
        """Run an update that has waited in vain: its message is lost, or the broker is down."""
        seen, looks = self._waiting
        self._waiting = (queued, looks + 1 if queued == seen else 1)
        if queued is not None and self._waiting[1] > PATIENCE:
            threading.Thread(target=self._slot.run_update, args=[queued], daemon=True).start()

    def _sweep(self) -> None:
        """Remove job directories of attempts that no longer count, and what ended runs saved."""
        # Listed first: whatever is found was claimed before the tokens are read.
        found = {}
        for folder in self._settings.store.glob("staging/update_*.*"):
            update_id, _, token = folder.name.partition(".")
            found[folder] = (update_id, token)
        if not found:
            return
        with self._database.reading() as session:
            valid = runs.tokens(session, [update_id for update_id, _ in found.values()])
        for folder, (update_id, token) in found.items():
            counts = valid.get(update_id)
            if counts is None or token not in (str(counts), "state"):
                shutil.rmtree(folder, ignore_errors=True)
