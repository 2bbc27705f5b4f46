"""Keeps child processes running: each in its own group, logged to a file, dying with this one."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.cli.lifeline import die_with
from app.cli.processes import Program

STOP_S = 15.0
SOUND_S = 60.0  # a child that ran so long starts its next life at once
LONGEST_WAIT_S = 30.0
LOG_BYTES = 20_000_000


class Child:
    """One program's present process and what is known of its failures."""

    def __init__(self, program: Program, logs: Path, environment: Mapping[str, str]) -> None:
        self.name = program.name
        self.log = logs / f"{program.name}.log"
        self._command = program.command
        self._environment = environment
        self._failures = 0
        self._again_at: float | None = None
        self.process = self._start()

    def look(self, say: Callable[[str], None]) -> None:
        """Say that the process has ended, once, and start it again when its time has come."""
        if self._again_at is not None:
            if time.monotonic() >= self._again_at:
                self._again_at = None
                self.process = self._start()
        elif (status := self.process.poll()) is not None:
            sound = time.monotonic() - self._started > SOUND_S
            self._failures = 1 if sound else self._failures + 1
            wait_s = min(2.0 ** (self._failures - 1), LONGEST_WAIT_S)
            self._again_at = time.monotonic() + wait_s
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            say(f"The {self.name} {how}; it starts again in {wait_s:.0f} s (see {self.log}).")

    def send(self, number: int) -> None:
        """Signal the whole process group."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)

    def last_words(self) -> str:
        """Return the last line of the log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _start(self) -> subprocess.Popen[bytes]:
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        self._started = time.monotonic()
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                process_group=0,
                preexec_fn=die_with(os.getpid()),  # safe: this process has one thread
            )


def stop_all(children: Sequence[Child], grace_s: float = STOP_S) -> None:
    """Ask every child to end; kill what hasn't by then."""
    deadline = time.monotonic() + grace_s
    for child in children:
        child.send(signal.SIGTERM)
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.process.wait(max(deadline - time.monotonic(), 0))
        child.send(signal.SIGKILL)
        child.process.wait()
