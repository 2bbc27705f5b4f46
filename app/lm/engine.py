"""One engine: its limits, its residents and the place that each open request takes."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app.errors import Invalid, Unavailable
from app.lm import chat
from app.lm.residents import Resident, Residents
from app.lm.rows import Row
from app.lm.scheduler import Expired, Job, Scheduler
from app.lm.wire import ChatRequest


@dataclass(frozen=True)
class Limits:
    """What one engine may use."""

    store: Path
    memory: int  # bytes of resident checkpoints
    max_batch: int
    max_waiting: int
    deadline_s: float
    default_tokens: int = 256


class Engine:
    """The routes' state: residents, the model thread, and how many requests are open."""

    def __init__(self, limits: Limits, device: str) -> None:
        self.limits = limits
        self.residents = Residents(limits.store, limits.memory, device)
        self.scheduler = Scheduler(limits.max_batch)
        self.open = 0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Take one of the places for requests that run, wait or load; ``Unavailable`` when full."""
        if self.open >= self.limits.max_batch + self.limits.max_waiting:
            raise Unavailable("The engine's queue is full; try again.")
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    @asynccontextmanager
    async def job(self, asked: ChatRequest) -> AsyncIterator[Job]:
        """Run a request's job; leaving early frees its place at the next step."""
        limit = self.limits.deadline_s
        deadline = time.monotonic() + limit
        async with self.place(), AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(limit):
                    using = self.residents.using(asked.model)
                    resident = await stack.enter_async_context(using)
            except TimeoutError:
                raise Expired from None  # the load goes on, for those who ask later
            job = Job(resident.bundle, self._row(asked, resident), deadline, asked.stream)
            self.scheduler.submit(job)
            try:
                yield job
            finally:
                job.cancel()

    def _row(self, asked: ChatRequest, resident: Resident) -> Row:
        bundle = resident.bundle
        messages = [turn.model_dump() for turn in asked.messages]
        prompt = chat.encode_chat(bundle.tokenizer, messages)
        room = bundle.manifest.context_length - len(prompt)
        wanted = asked.max_completion_tokens or asked.max_tokens
        if room < (wanted or 1):
            raise Invalid(
                f"The prompt has {len(prompt)} tokens and the answer may have {wanted or 1};"
                f" together the context holds {bundle.manifest.context_length}."
            )
        tokens = wanted or min(room, self.limits.default_tokens)
        return Row(prompt, tokens, asked.temperature, asked.top_p, asked.seed)
