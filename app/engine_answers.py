"""What engines say, read: answers, streams of them, and each failure as one of our errors."""

import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx

from app.errors import DomainError, Invalid, Unavailable
from app.prompts import Message

FULL = "The engine has more questions than it can answer now; try again."
# Before these, no engine saw the question; aiohttp asks from an event loop, httpx from a thread.
UNREACHABLE = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
)


@dataclass(frozen=True)
class Reply:
    """A whole response, whichever library read it; the names of headers know no case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_error(self) -> bool:
        """Say whether the status is one of failure."""
        return self.status >= 400


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


class Unreachable(Unavailable):
    """The engine can't be reached."""


class Refused(Unavailable):
    """The engine is full, or lacks the checkpoint; it didn't look at the question."""


class Broken(Unavailable):
    """The engine didn't answer to the end."""


def make_body(
    digest: str, messages: Sequence[Message], max_tokens: int | None, temperature: float
) -> dict[str, Any]:
    """Write a chat request."""
    body = {"model": digest, "messages": list(messages), "temperature": temperature}
    return body if max_tokens is None else {**body, "max_tokens": max_tokens}


def read_completion(reply: Reply, digest: str) -> Completion:
    """Read a whole answer that must be this checkpoint's; raises what it stands for otherwise."""
    if reply.is_error:
        raise refusal(reply)
    with mapped():
        answer = json.loads(reply.body)
        _check_model(answer, digest)
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
        return Completion(text, choice["finish_reason"], _usage(answer["usage"]))


def _check_model(answer: dict[str, Any], digest: str) -> None:
    if answer["model"] != digest:
        raise Unavailable(f"The engine answered from another model than {digest[:12]}.")


def _usage(counts: dict[str, int]) -> Usage:
    return Usage(counts["prompt_tokens"], counts["completion_tokens"])


async def read_deltas(lines: AsyncIterable[bytes], digest: str) -> AsyncGenerator[Delta]:
    """Read the event stream; one that ends without its `[DONE]` broke off."""
    async for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise Unavailable(f"The engine failed while answering: {event['error']['message']}")
        _check_model(event, digest)
        for choice in event["choices"]:
            yield Delta(choice["delta"].get("content") or "", choice["finish_reason"])
        if not event["choices"] and event.get("usage"):
            yield Delta("", usage=_usage(event["usage"]))
    raise Broken("The engine broke off while answering.")


def refusal(reply: Reply) -> DomainError:
    """Make the error for a refused question."""
    message = message_of(reply)
    if reply.status in (400, 413, 422):
        return Invalid(f"The engine refused the question: {message}")
    if reply.status in (429, 503):
        error = Refused(FULL)
        with suppress(ValueError):
            error.retry_after_s = max(1, int(reply.headers.get("Retry-After", "1")))
        return error
    kinds = {404: Refused, 500: Broken}
    kind = kinds.get(reply.status, Unavailable)
    return kind(f"The engine can't answer now: {message}")


def message_of(reply: Reply) -> str:
    """Read an error in OpenAI's form, in vLLM's older flat one, or as plain text."""
    try:
        error = json.loads(reply.body)
        return str(error.get("error", error)["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return reply.body[:300].decode(errors="replace") or f"status {reply.status}"


@contextmanager
def mapped() -> Iterator[None]:
    """Turn what a connection or an odd answer raises into one of our errors."""
    try:
        yield
    except UNREACHABLE:
        raise Unreachable from None
    except (httpx.TimeoutException, TimeoutError):
        raise Broken("The engine took too long to answer.") from None
    except (httpx.HTTPError, aiohttp.ClientError) as error:
        raise Broken(f"The connection to the engine broke: {error!r}.") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unavailable("The engine sent something that is no chat answer.") from error
