"""The engine, seen from the API and the worker: vLLM's routes, checkpoints named by digest."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx

from app.engine_answers import (
    UNREACHABLE,
    Broken,
    Completion,
    Delta,
    Refused,
    Reply,
    make_body,
    mapped,
    message_of,
    read_completion,
    read_deltas,
    refusal,
)
from app.errors import Unavailable
from app.prompts import TEMPLATE_ARGUMENTS, Message, ask

CHAT = "/v1/chat/completions"
ADAPTER = "adapter_config.json"
LOAD_TIMEOUT_S = 600.0  # reading many gigabytes from a cold disk
HEALTH_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 5.0


class EngineClient:
    """Asks one engine; every failure of it becomes an error from `app.errors`.

    `Unavailable` (503) stands for: not reachable, too slow, full, or without the checkpoint.
    `Invalid` (422) stands for a request that it refuses, such as one longer than its context.
    `pushes_from` is the folder of checkpoints where vLLM is the engine: it forgets its adapters
    when it restarts, so one that it lacks is pushed again, and its root is never loaded.
    """

    def __init__(self, url: str, timeout_s: float, pushes_from: Path | None = None) -> None:
        self._pushes_from = pushes_from
        # Ours renders templates so by itself; a proof is worth nothing where a prompt is another.
        self._more = {"chat_template_kwargs": TEMPLATE_ARGUMENTS} if pushes_from else {}
        self._pushing = asyncio.Lock()
        self._url = url.rstrip("/")
        self._timeout_s, self._connect_s = timeout_s, min(timeout_s, CONNECT_TIMEOUT_S)
        self._session: aiohttp.ClientSession | None = None
        # The rarer sync calls each take a new connection, which can't be stale.
        fresh = httpx.Limits(max_keepalive_connections=0)
        limits = httpx.Timeout(timeout_s, connect=self._connect_s)
        # A proxy for the world outside is none for the engine; aiohttp asks for none either.
        self._sync = httpx.Client(base_url=url, timeout=limits, limits=fresh, trust_env=False)

    async def aclose(self) -> None:
        """Close every connection, from the event loop that `complete` and `stream` ran in."""
        if self._session:
            await self._session.close()
        self._sync.close()

    def close(self) -> None:
        """Close the connections of the sync methods."""
        self._sync.close()

    async def complete(
        self,
        digest: str,
        messages: Sequence[Message],
        max_tokens: int | None,
        temperature: float = 0.0,
    ) -> Completion:
        """Answer a chat, greedily at temperature 0; the engine limits what `max_tokens` doesn't."""
        body = make_body(digest, messages, max_tokens, temperature) | self._more
        with mapped():
            async with await self._ask(digest, body) as response:
                return read_completion(await _whole(response), digest)

    async def stream(
        self,
        digest: str,
        messages: Sequence[Message],
        max_tokens: int | None,
        temperature: float = 0.0,
    ) -> AsyncGenerator[Delta]:
        """Yield the answer piece by piece; close the iterator to stop the engine's work on it."""
        body = make_body(digest, messages, max_tokens, temperature) | self._more
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        with mapped():
            async with await self._ask(digest, body) as response:
                if not response.ok:
                    raise refusal(await _whole(response))
                async with aclosing(read_deltas(response.content, digest)) as deltas:
                    async for delta in deltas:
                        yield delta

    async def _ask(self, digest: str, body: dict[str, Any]) -> aiohttp.ClientResponse:
        """Send a chat; to a vLLM that has forgotten the adapter, push it and send once more."""
        response = await self._send(body)
        if response.status != 404 or self._pushes_from is None:
            return response
        response.close()
        async with self._pushing:  # of many questions that find it absent, one pushes
            await asyncio.to_thread(self.load, digest, str(self._pushes_from / digest))
        return await self._send(body)

    async def _send(self, body: dict[str, Any]) -> aiohttp.ClientResponse:
        """Send a chat and return when the answer starts; once more if the connection was stale."""
        self._session = session = self._session or self._open()
        connected: list[bool] = []
        send = partial(session.post, self._url + CHAT, json=body, allow_redirects=False)
        try:
            return await send(trace_request_ctx=connected)
        except UNREACHABLE:
            raise
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            if connected:  # a new connection broke: the engine died on this very question
                raise
        try:
            return await send()
        except UNREACHABLE as error:  # it may be this question that the engine died of
            raise Broken("The connection to the engine broke.") from error

    def _open(self) -> aiohttp.ClientSession:
        """Open the session of this event loop; a full engine refuses, so it limits nothing."""

        async def note(_session: object, context: SimpleNamespace, _about: object) -> None:
            if context.trace_request_ctx is not None:
                context.trace_request_ctx.append(True)

        trace = aiohttp.TraceConfig()
        trace.on_connection_create_start.append(note)
        limits = aiohttp.ClientTimeout(connect=self._connect_s, sock_read=self._timeout_s)
        return aiohttp.ClientSession(
            timeout=limits,
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
        )

    def complete_sync(
        self,
        digest: str,
        messages: Sequence[Message],
        max_tokens: int | None,
        temperature: float = 0.0,
    ) -> Completion:
        """Answer a chat from a thread."""
        body = make_body(digest, messages, max_tokens, temperature) | self._more
        return read_completion(self._post(CHAT, body), digest)

    def load(self, digest: str, path: str) -> None:
        """Have the engine load a checkpoint's folder; loaded already is fine."""
        if self._pushes_from is not None:
            if not Path(path, ADAPTER).is_file():
                return  # vLLM's root, which it was started with, or nothing: the answers will tell
            self._check_root(self._pushes_from / digest)
        body = {"lora_name": digest, "lora_path": path}
        reply = self._post("/v1/load_lora_adapter", body, timeout=LOAD_TIMEOUT_S)
        # vLLM answers 400 for an adapter that it has.
        if reply.is_error and "already been loaded" not in message_of(reply):
            kind = Refused if reply.status in (429, 503) else Unavailable  # full: it may have room
            raise kind(f"The engine can't load {digest[:12]}: {message_of(reply)}")

    def _check_root(self, folder: Path) -> None:
        """Raise where vLLM was started with another root: it would lay the adapter over that."""
        try:
            root = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["root"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise Unavailable(f"The manifest of {folder.name[:12]} can't be read.") from error
        with mapped():
            served = self._sync.get("/v1/models").raise_for_status().json()["data"]
            if root not in [card["id"] for card in served]:
                raise Unavailable(f"The engine doesn't serve the root of {folder.name[:12]}.")

    def prove(self, digest: str, path: str) -> None:
        """Have the engine load a checkpoint and answer one question with it."""
        self.load(digest, path)
        self.complete_sync(digest, ask("Are you there?"), max_tokens=1)

    def health(self) -> bool:
        """Say whether the engine is up; never raises."""
        try:
            return self._sync.get("/health", timeout=HEALTH_TIMEOUT_S).is_success
        except httpx.HTTPError:
            return False

    def _post(self, path: str, body: dict[str, Any], **options: Any) -> Reply:
        with mapped():
            response = self._sync.post(path, json=body, **options)
            return Reply(response.status_code, response.headers, response.content)


async def _whole(response: aiohttp.ClientResponse) -> Reply:
    return Reply(response.status, response.headers, await response.read())
