"""Server-sent events: an update's progress as it happens, taken up again where a stream broke."""

from collections.abc import Iterable, Iterator

import httpx

from app.client.models import Event
from app.client.transport import ApiError, Transport, checked, unreachable

# The service sends a sign of life more often than this.
SILENCE_S = 45.0
TRIES = 8


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """Read events, each one whole in its data; comments and a broken-off event are dropped."""
    data = ""
    for line in lines:
        name, _, value = line.partition(":")
        if name == "data":
            data += value.removeprefix(" ")
        elif not line and data:
            yield Event.model_validate_json(data)
            data = ""


def stream(transport: Transport, path: str, after: int = 0) -> Iterator[Event]:
    """Yield events until the service ends the stream; one broken off goes on after the last id."""
    failures = 0
    while True:
        try:
            for event in _connect(transport, path, after):
                after, failures = event.id, 0
                yield event
            return
        except (httpx.TransportError, ApiError) as error:
            failures += 1
            if failures < TRIES and getattr(error, "status", 503) == 503:
                transport.sleep(min(0.25 * 2**failures, 5.0))
            elif isinstance(error, ApiError):
                raise
            else:
                raise unreachable(transport.http, error) from error


def _connect(transport: Transport, path: str, after: int) -> Iterator[Event]:
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    timeout = httpx.Timeout(10.0, read=SILENCE_S)
    with transport.http.stream("GET", path, headers=headers, timeout=timeout) as response:
        if not response.is_success:
            response.read()
        yield from parse(checked(response).iter_lines())
