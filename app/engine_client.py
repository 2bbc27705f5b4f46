"""The engine, seen from the API and the worker: vLLM's routes, checkpoints named by digest."""

import json
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from app.errors import DomainError, Invalid, Unavailable
from app.prompts import Message, ask

CHAT = "/v1/chat/completions"
LOAD_TIMEOUT_S = 600.0  # reading many gigabytes from a cold disk
HEALTH_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Usage:
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Completion:
    """One whole answer; `finish_reason` is `stop` or `length`."""

    text: str
    finish_reason: str
    usage: Usage


@dataclass(frozen=True)
class Delta:
    """A piece of an answer; one of the last two has a finish_reason, the last one the usage."""

    text: str
    finish_reason: str | None = None
    usage: Usage | None = None


class EngineClient:
    """Asks one engine; every failure of it becomes an error from `app.errors`.

    `Unavailable` (503) stands for: not reachable, too slow, full, or without the checkpoint.
    `Invalid` (422) stands for a request that it refuses, such as one longer than its context.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        pooled = httpx.Limits(max_connections=1000, max_keepalive_connections=50)
        # The rarer sync calls each take a new connection, which can't be stale.
        fresh = httpx.Limits(max_keepalive_connections=0)
        self._async = httpx.AsyncClient(base_url=url, timeout=timeout_s, limits=pooled)
        self._sync = httpx.Client(base_url=url, timeout=timeout_s, limits=fresh)

    async def aclose(self) -> None:
        """Close every connection, from the event loop that `complete` and `stream` ran in."""
        await self._async.aclose()
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
        body = _body(digest, messages, max_tokens, temperature)
        with _mapped():
            response = await self._send(body)
            try:
                await response.aread()
            finally:
                await response.aclose()
            return _completion(response)

    async def stream(
        self,
        digest: str,
        messages: Sequence[Message],
        max_tokens: int | None,
        temperature: float = 0.0,
    ) -> AsyncGenerator[Delta]:
        """Yield the answer piece by piece; close the iterator to stop the engine's work on it."""
        body = _body(digest, messages, max_tokens, temperature)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        with _mapped():
            response = await self._send(body)
            try:
                if response.is_error:
                    await response.aread()
                    raise _refusal(response)
                async with aclosing(_deltas(response)) as deltas:
                    async for delta in deltas:
                        yield delta
            finally:
                await response.aclose()

    async def _send(self, body: dict[str, Any]) -> httpx.Response:
        """Send a chat and return when the answer starts; once more if the connection was stale."""
        connected: list[str] = []

        async def trace(event: str, _info: object) -> None:
            if event == "connection.connect_tcp.started":
                connected.append(event)

        request = self._async.build_request("POST", CHAT, json=body, extensions={"trace": trace})
        try:
            return await self._async.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            if connected:  # a new connection broke: the engine died on this very question
                raise
            return await self._async.send(request, stream=True)

    def complete_sync(
        self,
        digest: str,
        messages: Sequence[Message],
        max_tokens: int | None,
        temperature: float = 0.0,
    ) -> Completion:
        """Answer a chat from a thread."""
        body = _body(digest, messages, max_tokens, temperature)
        return _completion(self._post(CHAT, body))

    def load(self, digest: str, path: str) -> None:
        """Have the engine load a checkpoint's folder; loaded already is fine."""
        body = {"lora_name": digest, "lora_path": path}
        response = self._post("/v1/load_lora_adapter", body, timeout=LOAD_TIMEOUT_S)
        # vLLM answers 400 for an adapter that it has.
        if response.is_error and "already been loaded" not in _message(response):
            raise Unavailable(f"The engine can't load {digest[:12]}: {_message(response)}")

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

    def _post(self, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
        with _mapped():
            return self._sync.post(path, json=body, **options)


def _body(
    digest: str, messages: Sequence[Message], max_tokens: int | None, temperature: float
) -> dict[str, Any]:
    body = {"model": digest, "messages": list(messages), "temperature": temperature}
    return body if max_tokens is None else {**body, "max_tokens": max_tokens}


def _completion(response: httpx.Response) -> Completion:
    if response.is_error:
        raise _refusal(response)
    with _mapped():
        answer = response.json()
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
        return Completion(text, choice["finish_reason"], _usage(answer["usage"]))


def _usage(counts: dict[str, int]) -> Usage:
    return Usage(counts["prompt_tokens"], counts["completion_tokens"])


async def _deltas(response: httpx.Response) -> AsyncGenerator[Delta]:
    """Read the event stream; one that ends without its `[DONE]` broke off."""
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise Unavailable(f"The engine failed while answering: {event['error']['message']}")
        for choice in event["choices"]:
            yield Delta(choice["delta"].get("content") or "", choice["finish_reason"])
        if not event["choices"] and event.get("usage"):
            yield Delta("", usage=_usage(event["usage"]))
    raise Unavailable("The engine broke off while answering.")


def _refusal(response: httpx.Response) -> DomainError:
    """Make the error for a refused question."""
    message = _message(response)
    if response.status_code in (400, 413, 422):
        return Invalid(f"The engine refused the question: {message}")
    if response.status_code in (429, 503):
        error = Unavailable("The engine has more questions than it can answer now; try again.")
        with suppress(ValueError):
            error.retry_after_s = max(1, int(response.headers.get("Retry-After", "1")))
        return error
    return Unavailable(f"The engine can't answer now: {message}")


def _message(response: httpx.Response) -> str:
    """Read an error in OpenAI's form, in vLLM's older flat one, or as plain text."""
    try:
        error = response.json()
        return str(error.get("error", error)["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.text[:300] or f"status {response.status_code}"


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException:
        raise Unavailable("The engine took too long to answer.") from None
    except httpx.ConnectError:
        raise Unavailable("The engine can't be reached.") from None
    except httpx.HTTPError as error:
        raise Unavailable(f"The connection to the engine broke: {error!r}.") from error
    except (ValueError, LookupError, TypeError) as error:
        raise Unavailable("The engine sent something that is no chat answer.") from error
