"""Clients that ask at the same time, and what they saw."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Reply:
    """One request's end: when it began, how long it took, what came back."""

    question: str
    began: float
    seconds: float
    status: int
    body: dict[str, Any]
    retry_after: str | None


MAX_TOKENS = 24
Send = Callable[[httpx.AsyncClient, int, str], Awaitable[httpx.Response]]


async def ask_all(
    send: Send, questions: Sequence[str], clients: int, headers: dict[str, str] | None = None
) -> list[Reply]:
    """Have so many clients ask the questions, each its next one when it has its answer."""
    limits = httpx.Limits(max_connections=clients + 4, max_keepalive_connections=clients + 4)
    waiting = iter(list(enumerate(questions)))
    replies: list[Reply] = []
    async with httpx.AsyncClient(limits=limits, timeout=60, headers=headers) as http:

        async def client() -> None:
            for number, question in waiting:
                replies.append(await _ask(send, http, number, question))

        await asyncio.gather(*(client() for _ in range(clients)))
    return replies


async def _ask(send: Send, http: httpx.AsyncClient, number: int, question: str) -> Reply:
    began = time.perf_counter()
    response = await send(http, number, question)
    seconds = time.perf_counter() - began
    body = response.json()
    retry_after = response.headers.get("Retry-After")
    return Reply(question, began, seconds, response.status_code, body, retry_after)


def qa(urls: Sequence[str], **more: object) -> Send:
    """Ask the API's processes in turn."""

    async def send(http: httpx.AsyncClient, number: int, question: str) -> httpx.Response:
        body = {"question": question, "max_tokens": MAX_TOKENS, **more}
        return await http.post(f"{urls[number % len(urls)]}/v1/qa", json=body)

    return send


def chat(url: str, digest: str, max_tokens: int = MAX_TOKENS) -> Send:
    """Ask the engine itself, as the API would."""

    async def send(http: httpx.AsyncClient, number: int, question: str) -> httpx.Response:
        del number
        messages = [{"role": "user", "content": question}]
        body = {"model": digest, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0}
        return await http.post(f"{url}/v1/chat/completions", json=body)

    return send


@asynccontextmanager
async def meanwhile(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Keep doing the work until the block ends."""

    async def forever() -> None:
        while True:
            await work()

    task = asyncio.create_task(forever())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def quantile(seconds: Sequence[float], share: float) -> float:
    """Return the value, in milliseconds, that this share of the values doesn't exceed."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median_ms(replies: Sequence[Reply]) -> float:
    """Return the median time of the answers, ms."""
    return quantile([reply.seconds for reply in replies], 0.5)
