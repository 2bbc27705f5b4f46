"""The trainer's process, seen from its supervisor: started, listened to, ended, its result read."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from app.models.base import JsonObject
from app.services.results import Result
from tasks.training.errors import LAUNCHER

LAST_WORDS = 2000  # bytes of the trainer's log that are kept


class TrainerFailed(Exception):
    """The trainer gave no checkpoint; this counts as an attempt."""

    def __init__(self, kind: str, detail: str, fact_ids: Sequence[str] = ()) -> None:
        self.error: JsonObject = {"type": kind, "detail": detail, "fact_ids": list(fact_ids)}
        super().__init__(f"{kind}: {detail}")


class Trainer:
    """One trainer at work in a job directory; it and its children die with the ``with`` block."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._folder = folder
        self._read = 0
        with (folder / "trainer.log").open("wb") as output:
            self._process = subprocess.Popen(
                [*command, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, LAUNCHER: str(os.getpid())},
            )
        # Whoever asks questions on this machine goes first.
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, 19)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def is_running(self, patience_s: float) -> bool:
        """Wait a little for the process to end; say whether it still runs."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return True
        return False

    def read_event(self) -> JsonObject | None:
        """Return the newest event since the last call; half a line is left for the next."""
        try:
            with (self._folder / "events.jsonl").open("rb") as file:
                file.seek(self._read)
                lines = [line for line in file if line.endswith(b"\n")]
        except FileNotFoundError:
            return None
        self._read += sum(map(len, lines))
        event: JsonObject | None = json.loads(lines[-1]) if lines else None
        return event

    def read_result(self) -> Result:
        """Return what the ended process found out, or raise TrainerFailed with why it didn't."""
        if self._process.returncode != 0:
            said = (
                (self._folder / "trainer.log").read_bytes()[-LAST_WORDS:].decode(errors="replace")
            )
            raise TrainerFailed("died", f"Exit status {self._process.returncode}. {said}".strip())
        try:
            raw = json.loads((self._folder / "result.json").read_bytes())
            if raw["status"] == "failed":
                error = raw["error"]
                raise TrainerFailed(error["type"], error["detail"], error.get("fact_ids", ()))
            return Result.model_validate(raw)
        except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
            raise TrainerFailed("bad_result", f"result.json: {error!r}"[:LAST_WORDS]) from error
