"""One HTTP exchange with the service: the key, retries where they are safe, errors as sentences."""

import re
import time
from collections.abc import Callable
from typing import Any

import httpx

TRIES = 5
LONGEST_WAIT_S = 10.0
_KEY = re.compile("[!-~]+")


class ApiError(Exception):
    """The service refused, failed or couldn't be reached (status 0); reads as one sentence."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(problem.get("detail") or problem.get("title") or f"HTTP status {status}.")


def connect(url: str, key: str, **options: Any) -> httpx.Client:
    """Make the client of one service; ValueError, a sentence, where URL or key can't be one."""
    try:
        base = httpx.URL(url)
        is_address = base.scheme in ("http", "https") and base.host
    except (httpx.InvalidURL, UnicodeError):  # the latter from an international host
        is_address = False
    if not is_address:
        raise ValueError(f"{url!r} is no service's address, such as http://127.0.0.1:8000.")
    if not _KEY.fullmatch(key):  # which isn't told: it may be nearly right
        raise ValueError("An API key is one word of ASCII characters; the one given isn't.")
    return httpx.Client(base_url=base, headers={"Authorization": f"Bearer {key}"}, **options)


class Transport:
    """Sends requests; safe to share between threads."""

    def __init__(self, http: httpx.Client, sleep: Callable[[float], None] = time.sleep) -> None:
        self.http = http
        self.sleep = sleep

    def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        """Send one request and return the object that a good answer is, or raise ApiError.

        Sent again: a GET that broke off, and anything that a 503 with Retry-After put off. Other
        requests that broke off may have been done, so they are never sent again here; nor is what
        took too long to answer, which may be at work on it still.
        """
        for attempt in range(1, TRIES + 1):
            try:
                response = self.http.request(method, path, **options)
            except httpx.TransportError as error:
                late = isinstance(error, httpx.ReadTimeout)
                if method != "GET" or late or attempt == TRIES:
                    raise unreachable(self.http, error) from error
                self.sleep(min(0.25 * 2**attempt, LONGEST_WAIT_S))
                continue
            wait_s = _retry_after(response)
            if wait_s is None or attempt == TRIES:
                if (answer := _read(checked(response))) is None:
                    raise ApiError(response.status_code, _describe(response))
                return answer
            self.sleep(min(wait_s, LONGEST_WAIT_S))
        raise AssertionError  # the last attempt returned or raised


def checked(response: httpx.Response) -> httpx.Response:
    """Return a read response with a good status; raise ApiError for any other."""
    if response.is_success:
        return response
    raise ApiError(response.status_code, _read(response) or _describe(response))


def _read(response: httpx.Response) -> dict[str, Any] | None:
    """Return the JSON object that an answer is, or None where it is something else."""
    try:
        answer = response.json()
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _describe(response: httpx.Response) -> dict[str, Any]:
    """Say what came in place of the service's own words."""
    asked = response.request
    said = f"{asked.method} {asked.url.path} answered {response.status_code} "
    more = ", but no JSON object: is this the service's address?" if response.is_success else "."
    return {"detail": said + response.reason_phrase + more}


def unreachable(http: httpx.Client, error: httpx.TransportError) -> ApiError:
    """Say that the service can't be reached, and where it was looked for."""
    url = str(http.base_url).rstrip("/")
    if isinstance(error, httpx.TimeoutException):
        return ApiError(0, {"detail": f"The service at {url} took too long to answer."})
    return ApiError(0, {"detail": f"No service can be reached at {url}: is it running?"})


def _retry_after(response: httpx.Response) -> float | None:
    header = response.headers.get("retry-after", "")
    return float(header) if response.status_code == 503 and header.isdigit() else None
