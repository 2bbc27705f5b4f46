"""One update from claim to publication: job directory, trainer process, proof, one transaction.

This process may die at any line: the lease runs out, and another runner starts again under a new
token. Until `publish` only the lease, the progress and this attempt's own files have changed.
"""

import json
import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from app.config import Settings
from app.crash import crash_point
from app.db import Database
from app.engine_answers import Refused
from app.engine_pool import connect
from app.errors import CheckpointCorrupt, DomainError
from app.lm import store
from app.lm.disposal import size_of
from app.models import Update
from app.models.base import JsonObject
from app.services import consolidations, jobs, publishing, runs
from app.services.jobs import Job
from app.services.publishing import Candidate
from app.services.results import Result
from app.services.runs import Run
from tasks.lease import Cancelled, Fenced, Lease, Stopped
from tasks.trainer import Trainer, TrainerFailed

TRAINER = (sys.executable, "-m", "tasks.training")
LOOK_S = 0.2  # how often the trainer is looked at
PAUSE_S = 30.0  # after trouble that isn't the trainer's: a full disk is no reason to spin
SPACE = 3  # times the parent: the candidate, as much again in the making, and room to serve
LEAST_FREE = 16 * 2**20  # bytes; with less the disk is full
PROVE_TRIES = 5  # of an engine that is full: it may soon have room
LONGEST_PAUSE_S = 5  # between them
PUBLISH_TRIES = 60  # a second apart: a database that restarts costs no training
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Supervisor:
    """Runs updates on this worker, one by one."""

    database: Database
    settings: Settings
    owner: str
    stop: threading.Event
    trainer: Sequence[str] = TRAINER

    def run_update(self, update_id: str) -> None:
        """Claim the update and see it through; nothing happens when it can't be claimed."""
        with self.database.transaction() as session:
            run = runs.claim(session, update_id, self.owner, self.settings.lease_s)
            crash_point("claiming")
        if run is None:
            return
        crash_point("claimed")
        folder = self.settings.store / "staging" / f"{run.update_id}.{run.token}"
        try:
            with Lease(self.database, self.settings, run, self.stop) as lease:
                self._see_through(run, lease, folder)
        except Fenced:
            log.warning("another runner has update %s; nothing was changed here", update_id)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _see_through(self, run: Run, lease: Lease, folder: Path) -> None:
        """Run the update; end it or give it back, according to how that went."""
        try:
            with self.database.reading() as session:
                job = jobs.collect(session, run)
            if job.facts or job.kind == consolidations.KIND:
                self._write_job(run, folder, job)
                crash_point("prepared")
                result = self._train(run, lease, folder)
                crash_point("trained")
                lease.renew()  # this machine may have slept, and the run be another's now
                lease.check()
                candidate = self._take_candidate(run, folder, result)
                crash_point("tried")
                self._publish(publishing.publish, run, candidate)
                crash_point("published")
            elif job.kind == "rebuild":
                self._publish(publishing.go_back, run, self._try_engine(job.parent))
            else:
                raise Cancelled
        except Fenced:
            raise
        except Cancelled:
            self._end(runs.abandon, run)
        except Stopped:
            self._end(runs.release, run, "worker_stopped")
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)  # it may be what fills the disk
            lease.renew()
            if lease.is_lost():  # then its folder may be gone, which explains any error
                raise Fenced from error
            self._give_up(run, error)

    def _give_up(self, run: Run, error: Exception) -> None:
        """Count a failure against the update, or give it back where the fault isn't its own."""
        if isinstance(error, TrainerFailed):
            log.warning("update %s: %s", run.update_id, error)
            self._end(runs.fail, run, error.error)
        elif isinstance(error, (OSError, OperationalError, InterfaceError, DomainError)):
            log.error("update %s can't be run here now", run.update_id, exc_info=error)
            self.stop.wait(PAUSE_S)
            shown = {"type": "runner_failed", "detail": str(error)[:500]}
            self._end(runs.release, run, "runner_failed", shown)
        else:
            log.error("update %s met a bug", run.update_id, exc_info=error)
            self._end(runs.fail, run, {"type": "internal", "detail": repr(error)[:500]})

    def _end(self, end: Callable[..., Update | None], *arguments: object) -> None:
        """Write the run's end, or raise Fenced if it isn't ours to write."""
        with self.database.transaction() as session:
            if end(session, *arguments) is None:
                raise Fenced

    def _write_job(self, run: Run, folder: Path, job: Job) -> None:
        store.need_space(self.settings.store, SPACE * size_of(self.settings.store, job.parent))
        store.staging_folder(self.settings.store, folder.name)
        own = self.settings.reference_file
        brought = self.settings.store / "objects" / job.base / "reference.jsonl"
        if own is None and not brought.is_file():
            (folder / "reference.jsonl").touch()  # nobody said what this model knows
        else:
            shutil.copyfile(own or brought, folder / "reference.jsonl")
        _write_rows(folder / "replay.jsonl", job.replay)
        crash_point("preparing")
        _write_rows(folder / "facts.jsonl", job.facts)
        _write_rows(folder / "controls.jsonl", job.controls)
        head = {
            "update_id": run.update_id,
            "token": run.token,
            "kind": job.kind,
            "store": str(self.settings.store),
            "parent": job.parent,
            "base": job.base,
            "recipe": job.recipe,
            "threads": self.settings.trainer_threads,
            "state": str(folder.with_name(f"{run.update_id}.state")),
        }
        _write_rows(folder / "job.json", [head])

    def _train(self, run: Run, lease: Lease, folder: Path) -> Result:
        """Run the trainer until it ends or has to; pass on each phase and, once a second, more."""
        heard = told = time.monotonic()
        phase, news = None, None
        with Trainer(self.trainer, folder) as trainer:
            while trainer.is_running(LOOK_S):
                if heard_now := trainer.read_event():
                    heard, news = time.monotonic(), heard_now
                if news and (news["phase"] != phase or time.monotonic() - told >= 1):
                    self._report(run, news)
                    phase, news, told = news["phase"], None, time.monotonic()
                lease.check()
                if time.monotonic() - heard > self.settings.stall_timeout_s:
                    raise TrainerFailed("stalled", "It told nothing for too long.")
            if last := trainer.read_event() or news:
                self._report(run, last)
            try:
                return trainer.read_result()
            except TrainerFailed:
                # On a full disk the trainer's last words find no room either.
                store.need_space(self.settings.store, LEAST_FREE)
                raise

    def _report(self, run: Run, news: JsonObject) -> None:
        try:
            with self.database.transaction() as session:
                runs.report(session, run, news)
        except SQLAlchemyError:  # no reason to stop training
            log.warning("can't report on %s", run.update_id, exc_info=True)

    def _take_candidate(self, run: Run, folder: Path, result: Result) -> Candidate:
        """Move the trainer's checkpoint into the store and try it out."""
        self._report(run, {"phase": "publishing"})
        try:
            digest = store.publish(self.settings.store, folder / "checkpoint")
        except CheckpointCorrupt as error:
            raise TrainerFailed("checkpoint_corrupt", error.detail) from error
        if digest != result.digest:
            raise TrainerFailed("checkpoint_corrupt", f"{digest} isn't the digest in result.json.")
        manifest = store.manifest_of(self.settings.store, digest)
        return Candidate(
            digest=digest,
            kind=manifest.kind,
            root=manifest.root,
            parameters=manifest.parameters,
            result=result,
            unserved=self._try_engine(digest),
        )

    def _try_engine(self, digest: str) -> str | None:
        """Have the engine load the checkpoint and answer from it; return why it couldn't."""
        engine = connect(self.settings)
        try:
            for left in reversed(range(PROVE_TRIES)):
                try:
                    engine.prove(digest, str(store.path_of(self.settings.store, digest)))
                    return None
                except Refused as error:  # for now: it is full
                    if not left:
                        return error.detail
                    time.sleep(min(error.retry_after_s or 1, LONGEST_PAUSE_S))
        except DomainError as error:
            return error.detail
        finally:
            engine.close()
        return None

    def _publish(self, publish: Callable[..., Update | None], *arguments: object) -> None:
        for left in reversed(range(PUBLISH_TRIES)):
            try:
                # An exception may hide a commit that succeeded. Then the run has ended, and
                # the token keeps a second try from changing anything.
                self._end(publish, *arguments)
                return
            except (OperationalError, InterfaceError):
                if not left:
                    raise
                log.warning("publishing: once more", exc_info=True)
                self.stop.wait(1)


def _write_rows(path: Path, rows: Iterable[JsonObject]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")
