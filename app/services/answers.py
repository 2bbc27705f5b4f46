"""Answers: a question bound to one version and to waiting facts, then asked to the engine."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from app.db import Reader
from app.engine_answers import Completion, Delta
from app.engine_pool import EnginePool
from app.errors import Invalid, Unavailable
from app.prompts import Message, ask
from app.services import checkpoints, overlay

MAX_QUESTION = 8 * 1024  # bytes of UTF-8
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Support:
    """A fact that an answer rests on, and the version that learned it, if one has."""

    id: str
    text: str
    status: str
    version: int | None = None


@dataclass(frozen=True)
class Bound:
    """The version that answers, whatever becomes current meanwhile, and the facts it is given."""

    version: int
    digest: str
    facts: tuple[Support, ...] = ()

    def prompt(self, chat: Sequence[Message]) -> list[Message]:
        """Put the facts into the chat's last message."""
        if not self.facts:
            return list(chat)
        return [*chat[:-1], *ask(chat[-1]["content"], [fact.text for fact in self.facts])]


def bind(reader: Reader, question: str, *, version: int | None, max_facts: int) -> Bound:
    """Choose the version (None: current) and at most `max_facts` facts of the overlay.

    Raises as `checkpoints.resolve`. What is too long to be a question gets no facts.
    """
    facts: tuple[Support, ...] = ()
    # Facts before version: a fact learned in between is then given as well, never missed.
    if max_facts and len(question.encode()) <= MAX_QUESTION:
        found = overlay.find(reader, question, max_facts)
        facts = tuple(Support(fact.id, fact.text, _status(fact.status)) for fact in found)
    checkpoint = checkpoints.resolve(reader, version)
    return Bound(checkpoint.version, checkpoint.digest, facts)


def _status(stored: str) -> str:
    return "held" if stored == "trained" else stored  # no other trained fact is in the overlay


async def complete(
    engine: EnginePool,
    bound: Bound,
    chat: Sequence[Message],
    max_tokens: int | None,
    temperature: float = 0.0,
) -> tuple[Bound, Completion]:
    """Return the whole answer, and the binding with the facts that were given in the end."""

    async def attempt(bound: Bound) -> Completion:
        messages = bound.prompt(chat)
        return await engine.complete(bound.digest, messages, max_tokens, temperature)

    return await _fitting(bound, attempt)


class Guess:
    """What the last question was bound to, if to no facts: likely the next one is as well."""

    def __init__(self) -> None:
        self._bound: Bound | None = None

    @asynccontextmanager
    async def completing(
        self, engine: EnginePool, chat: Sequence[Message], max_tokens: int | None
    ) -> AsyncGenerator[Callable[[Bound], Awaitable[tuple[Bound, Completion]]]]:
        """Ask at once what is guessed; the function given asks what turns out, if it is another.

        A wrong guess is given up, and so is whatever the block leaves unfinished.
        """
        guessed, early = self._bound, None
        if guessed:
            early = asyncio.create_task(complete(engine, guessed, chat, max_tokens))
            early.add_done_callback(lambda task: task.cancelled() or task.exception())

        def settle(bound: Bound) -> Awaitable[tuple[Bound, Completion]]:
            self._bound = None if bound.facts else bound
            if early and bound == guessed:
                return early
            if early:
                early.cancel()
            return complete(engine, bound, chat, max_tokens)

        try:
            yield settle
        finally:
            if early:
                early.cancel()


async def stream(
    engine: EnginePool,
    bound: Bound,
    chat: Sequence[Message],
    max_tokens: int | None,
    temperature: float = 0.0,
) -> tuple[Bound, AsyncGenerator[Delta]]:
    """Return once the answer has begun, so that what fails before has its own status."""

    async def attempt(bound: Bound) -> AsyncGenerator[Delta]:
        messages = bound.prompt(chat)
        deltas = engine.stream(bound.digest, messages, max_tokens, temperature)
        if (first := await anext(deltas, None)) is None:
            raise Unavailable("The engine answered nothing at all.")
        return _joined(first, deltas)

    return await _fitting(bound, attempt)


async def _joined(first: Delta, rest: AsyncGenerator[Delta]) -> AsyncGenerator[Delta]:
    async with aclosing(rest):
        yield first
        async for delta in rest:
            yield delta


async def _fitting(
    bound: Bound, attempt: Callable[[Bound], Awaitable[Answer]]
) -> tuple[Bound, Answer]:
    """Ask with fewer and fewer facts while the engine refuses: its context may be too short."""
    while True:
        try:
            return bound, await attempt(bound)
        except Invalid:
            if not bound.facts:
                raise
            bound = replace(bound, facts=bound.facts[:-1])
