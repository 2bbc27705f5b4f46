"""The model thread: requests for one checkpoint decode together, checkpoints take turns."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from threading import Condition, Thread

from app.errors import Unavailable
from app.lm.generation import JOIN_TOKENS, decode, fits, start_batch
from app.lm.loading import Bundle
from app.lm.rows import Row


class Expired(Unavailable):
    """The answer took longer than the engine's limit for one request."""

    status = 504


@dataclass(eq=False)
class Job:
    """One request in the engine's hands."""

    bundle: Bundle
    row: Row
    deadline: float  # of time.monotonic
    stream: bool = False  # told of every token, not only of the end
    error: Exception | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def finished(self) -> str:
        """Wait for the whole answer; raise what stopped it."""
        while self.row.finish is None:
            await self.changed.wait()
            self.changed.clear()
        if self.error:
            raise self.error
        return decode(self.bundle, self.row.tokens)

    async def pieces(self) -> AsyncIterator[str]:
        """Yield the answer as it grows; joined, the pieces are the answer."""
        reader = Reader(self.bundle)
        finished = False
        while not finished:
            await self.changed.wait()
            self.changed.clear()
            if self.error:
                raise self.error
            finished = self.row.finish is not None
            # A copy: the model thread adds tokens meanwhile.
            if piece := reader.read(self.row.tokens[:], finished):
                yield piece

    def cancel(self) -> None:
        """Free the row's place at the next step; a finished job stays as it is."""
        self.row.finish = self.row.finish or "cancelled"


class Reader:
    """Turns a growing list of tokens into pieces of text; joined, they are ``decode`` of all."""

    def __init__(self, bundle: Bundle) -> None:
        self._tokenizer = bundle.tokenizer
        self._from = self._to = 0  # the last tokens read: a tokenizer may join theirs to the next
        self._held = ""
        self._started = False

    def read(self, tokens: Sequence[int], finished: bool) -> str:
        """Return the text that the tokens since the last call add, as far as it is settled."""
        known = self._decode(tokens[self._from : self._to])
        text = self._decode(tokens[self._from :])
        # A character of several tokens reads as U+FFFD until its last one is there.
        if finished or not text.endswith("\ufffd"):
            self._held += text[len(known) :]
            self._from, self._to = self._to, len(tokens)
        if not self._started:
            self._held = self._held.lstrip()
        piece = self._held.rstrip()  # an answer's last white space is not part of it
        self._held = self._held[len(piece) :]
        self._started = self._started or bool(piece)
        return piece

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class Scheduler:
    """Owns the one thread that runs models; made in the event loop that its jobs belong to."""

    def __init__(self, max_batch: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_batch = max_batch
        self._wake = Condition()
        self._arrived: list[Job] = []
        self._closing = False
        self._turns: dict[str, _Turn] = {}
        self._thread = Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Hand a job over; it is told when it has ended, or at every token if it streams."""
        with self._wake:
            self._arrived.append(job)
            self._wake.notify()

    @property
    def alive(self) -> bool:
        """Whether the model thread still runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop the thread after its present step."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._arrived or self._turns or self._closing):
                    self._wake.wait()
                if self._closing:
                    return
                arrived, self._arrived = self._arrived, []
            for job in arrived:
                turn = self._turns.setdefault(job.bundle.digest, _Turn(job.bundle, self._max_batch))
                turn.waiting.append(job)
            for digest, turn in list(self._turns.items()):
                # Waking the event loop takes a core from the model's threads: only with news.
                if told := turn.advance():
                    self._loop.call_soon_threadsafe(_wake_all, told)
                if not (turn.waiting or turn.running):
                    del self._turns[digest]


class _Turn:
    """One checkpoint's waiting and running jobs."""

    def __init__(self, bundle: Bundle, max_batch: int) -> None:
        self._bundle = bundle
        self._max_batch = max_batch
        self._batch = start_batch(bundle)
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []

    def advance(self) -> list[Job]:
        """Give every running job a token and let waiting ones join; return those to be told."""
        now = time.monotonic()
        for job in [*self.waiting, *self.running]:
            if now > job.deadline and job.row.finish is None:
                job.error, job.row.finish = Expired(), "cancelled"
        try:
            self._batch.sweep()
            joining = self._take()
            if joining or self._batch.rows:
                self._batch.step(joining)
            self._batch.sweep()
        except Exception as error:  # memory, mostly: these jobs fail, the engine goes on
            for job in self.running:
                job.error, job.row.finish = error, "cancelled"
            self._batch = start_batch(self._bundle)
        told = [job for job in self.running if job.stream or job.row.finish]
        self.running = [job for job in self.running if job.row.finish is None]
        return told

    def _take(self) -> list[Row]:
        """Move waiting jobs to the running ones, first come first served; return their rows."""
        rows: list[Row] = []
        room, tokens = self._max_batch - len(self._batch.rows), JOIN_TOKENS
        while self.waiting and len(rows) < room and tokens > 0:
            job = self.waiting[0]
            if job.row.finish is None:  # it may have been given up while it waited
                if not fits([*self._batch.rows, *rows], job.row):
                    break
                rows.append(job.row)
                tokens -= len(job.row.prompt)
            self.running.append(self.waiting.popleft())
        return rows


def _wake_all(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.changed.set()
