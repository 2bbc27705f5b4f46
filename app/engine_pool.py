"""Several engines behind one face: the least loaded answers, a failing one is left out.

An engine that breaks a connection or fails is taken out and asked for its health, ever less often,
until it is up again. Only a question that no engine has seen is asked elsewhere: one that kills an
engine must not kill them all.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from app.config import Settings
from app.engine_answers import Broken, Completion, Delta, Refused, Unreachable
from app.engine_client import EngineClient
from app.errors import Unavailable
from app.prompts import Message

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# An engine ends what takes too long by itself; one that doesn't even do that has failed.
PATIENCE_S = 5.0


@dataclass(eq=False)
class _Place:
    """One engine, how many requests it works on, and when to look at it again if it is out."""

    engine: EngineClient
    busy: int = 0
    turn: int = 0  # of the last request that it was given
    pause_s: float = 0.0  # 0: it is in
    look_at: float = 0.0  # of time.monotonic
    look: asyncio.Task[None] | None = None

    @contextmanager
    def used(self) -> Iterator[EngineClient]:
        """Count a request while it runs; what becomes of it says how the engine is."""
        self.busy += 1
        try:
            yield self.engine
        except (Unreachable, Broken):
            self.take_out()
            raise
        else:
            self.pause_s = 0.0
        finally:
            self.busy -= 1

    def take_out(self) -> None:
        """Leave the engine out for a while, twice as long as the last time."""
        if self.pause_s and time.monotonic() < self.look_at:
            return  # the others that were under way say the same
        self.pause_s = min(max(FIRST_PAUSE_S, 2 * self.pause_s), LONGEST_PAUSE_S)
        self.look_at = time.monotonic() + self.pause_s

    async def probe(self) -> None:
        """Let the engine in again if it says that it is up."""
        if await asyncio.to_thread(self.engine.health):
            self.pause_s = 0.0
        else:
            self.take_out()


class EnginePool:
    """Has the surface of `EngineClient`; its async methods belong to one event loop."""

    def __init__(self, engines: Sequence[EngineClient]) -> None:
        self._places = [_Place(engine) for engine in engines]
        self._turn = 0

    async def aclose(self) -> None:
        """Close every connection, from the event loop that `complete` and `stream` ran in."""
        for place in self._places:
            if place.look:
                place.look.cancel()
            await place.engine.aclose()

    def close(self) -> None:
        """Close the connections of the sync methods."""
        for place in self._places:
            place.engine.close()

    async def complete(
        self,
        digest: str,
        messages: Sequence[Message],
        max_tokens: int | None,
        temperature: float = 0.0,
    ) -> Completion:
        """Answer a chat with one of the engines."""
        error: Unavailable = Unreachable()
        for place in self._choose():
            try:
                with place.used() as engine:
                    return await engine.complete(digest, messages, max_tokens, temperature)
            except (Unreachable, Refused) as unseen:
                error = unseen
        raise error

    async def stream(
        self,
        digest: str,
        messages: Sequence[Message],
        max_tokens: int | None,
        temperature: float = 0.0,
    ) -> AsyncGenerator[Delta]:
        """Yield one engine's answer piece by piece; close the iterator to stop its work."""
        error: Unavailable = Unreachable()
        for place in self._choose():
            try:
                with place.used() as engine:
                    deltas = engine.stream(digest, messages, max_tokens, temperature)
                    async with aclosing(deltas):
                        async for delta in deltas:
                            yield delta
                return
            except (Unreachable, Refused) as unseen:
                error = unseen
        raise error

    def prove(self, digest: str, path: str) -> None:
        """Have every engine that is up load a checkpoint and answer one question with it."""
        engines = [place.engine for place in self._places]
        if len(engines) > 1:
            engines = [engine for engine in engines if engine.health()]
        if not engines:
            raise Unreachable
        with ThreadPoolExecutor(len(engines)) as threads:
            list(threads.map(lambda engine: engine.prove(digest, path), engines))

    def health(self) -> bool:
        """Say whether any engine is up; never raises."""
        return any(place.engine.health() for place in self._places)

    def _choose(self) -> list[_Place]:
        """Return the engines to try in turn, the least loaded first; all of them if all are out."""
        now = time.monotonic()
        for place in self._places:
            if place.pause_s and now >= place.look_at and (not place.look or place.look.done()):
                place.look = asyncio.create_task(place.probe())
        usable = [place for place in self._places if not place.pause_s] or self._places
        usable = sorted(usable, key=lambda place: (place.busy, place.turn))
        self._turn += 1
        usable[0].turn = self._turn
        return usable


def connect(settings: Settings) -> EnginePool:
    """Make the clients of the engines that the settings name."""
    pushes_from = settings.store / "objects" if settings.engine_kind == "vllm" else None
    timeout_s = settings.engine_timeout_s + PATIENCE_S
    return EnginePool([EngineClient(url, timeout_s, pushes_from) for url in settings.engine_urls])
