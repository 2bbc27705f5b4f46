"""Around every request: its id, its metrics, and a problem instead of a bare 413."""

import logging
import re
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.ids import new_id
from app.problems import problem, unexpected

log = logging.getLogger(__name__)
PREFIX = "/v1"
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Metrics:
    """What this process counts about its requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "almanac_requests", "Requests", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "almanac_request_seconds", "Time to answer", ("method", "route"), registry=self.registry
        )
        self.facts = Gauge("almanac_facts", "Facts", ("status",), registry=self.registry)
        self.version = Gauge(
            "almanac_current_version", "Version that answers; -1: none", registry=self.registry
        )

    def show(self, facts: dict[str, int], version: int | None) -> None:
        """Set the gauges to what the database holds now."""
        self.facts.clear()
        for status, count in facts.items():
            self.facts.labels(status).set(count)
        self.version.set(-1 if version is None else version)


class AroundRequest:
    """Give each request an id (the caller's, where it is sane), count it and time it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(scope, send, request_id)
        started = time.perf_counter()
        try:
            await self.app(scope, receive, answer.send)
        except Exception:  # whatever a route raises, the client is answered
            log.exception("unexpected error in request %s", request_id)
            if answer.started:  # too late for another answer: the server cuts the connection
                raise
            await unexpected(Request(scope))(scope, receive, answer.send)
        finally:
            labels = _labels(scope)
            self.metrics.requests.labels(*labels, str(answer.status)).inc()
            self.metrics.seconds.labels(*labels).observe(time.perf_counter() - started)


def _labels(scope: Scope) -> tuple[str, str]:
    """Name method and route; what no route knows is one name, or scans would fill the memory."""
    path = getattr(scope.get("route"), "path", None)
    if path is None or scope["method"] not in METHODS:
        return "other", "unknown"
    # A route's own path lacks the prefix that it is included under.
    return scope["method"], PREFIX + path if scope["path"].startswith(PREFIX) else path


class _Answer:
    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.scope, self._send, self.request_id = scope, send, request_id
        self.status = 500
        self.started = self._replaced = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.request_id
            # The framework's own size limit answers in plain text.
            if self.status == 413 and headers.get("content-type", "").startswith("text/plain"):
                self._replaced = True
                await self._send_problem()
        if not self._replaced:
            await self._send(message)

    async def _send_problem(self) -> None:
        detail = "The request's body is larger than this route takes."
        response = problem(Request(self.scope), 413, detail)
        response.headers["X-Request-ID"] = self.request_id
        await response(self.scope, _nothing, self._send)


async def _nothing() -> Any:
    raise NotImplementedError  # a problem's answer never reads the request
