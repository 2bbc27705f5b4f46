"""The lease of a running update, renewed beside the work, and the reasons to stop that work."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings
from app.db import Database
from app.services import runs
from app.services.runs import Run

LOOK_S = 1.0  # how soon a cancellation is seen
log = logging.getLogger(__name__)


class Fenced(Exception):
    """Another runner has the update, or it has ended."""


class Cancelled(Exception):
    """Its cancellation was asked for, or none of its facts is left."""


class Stopped(Exception):
    """This worker shuts down."""


class Lease:
    """Keeps a run ours for as long as the ``with`` block lasts, whatever else this process does."""

    def __init__(
        self, database: Database, settings: Settings, run: Run, stop: threading.Event
    ) -> None:
        self.stop = stop
        self._database, self._settings, self._run = database, settings, run
        self._cancelled: bool | None = False
        self._renewed = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()

    def is_lost(self) -> bool:
        """Say whether the run is no longer ours, or can't be known to be: the lease ran out."""
        age = time.monotonic() - self._renewed
        return self._cancelled is None or age > self._settings.lease_s

    def check(self) -> None:
        """Raise Fenced, Cancelled or Stopped where there is a reason to stop."""
        if self.is_lost():
            raise Fenced
        if self._cancelled:
            raise Cancelled
        if self.stop.is_set():
            raise Stopped

    def renew(self) -> None:
        """Renew the lease at once."""
        began = time.monotonic()
        with self._asking(), self._database.transaction() as session:
            self._cancelled = runs.heartbeat(session, self._run, self._settings.lease_s)
            self._renewed = began

    def _keep(self) -> None:
        while not self._done.wait(min(LOOK_S, self._settings.heartbeat_s)):
            if time.monotonic() - self._renewed >= self._settings.heartbeat_s:
                self.renew()
            else:
                with self._asking(), self._database.reading() as session:
                    self._cancelled = runs.watch(session, self._run)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError:
            # No reason to stop before the lease runs out; the token guards every write.
            log.warning("can't renew the lease of %s", self._run.update_id, exc_info=True)
