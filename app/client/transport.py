"""One HTTP exchange with the service: the key, retries where they are safe, errors as sentences."""

import time
from collections.abc import Callable
from typing import Any

import httpx

TRIES = 5
LONGEST_WAIT_S = 10.0


class ApiError(Exception):
    """The service refused, failed or couldn't be reached (status 0); reads as one sentence."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.problem = problem
        super().__init__(problem.get("detail") or problem.get("title") or f"HTTP status {status}.")


class Transport:
    """Sends requests; safe to share between threads."""

    def __init__(self, http: httpx.Client, sleep: Callable[[float], None] = time.sleep) -> None:
        self.http = http
        self.sleep = sleep

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send one request and return its good answer, or raise ApiError.

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
                return checked(response)
            self.sleep(min(wait_s, LONGEST_WAIT_S))
        raise AssertionError  # the last attempt returned or raised


def checked(response: httpx.Response) -> httpx.Response:
    """Return a read response with a good status; raise ApiError for any other."""
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        where = f"{response.request.method} {response.request.url.path}"
        problem = {"detail": f"{where} answered {response.status_code} {response.reason_phrase}."}
    raise ApiError(response.status_code, problem)


def unreachable(http: httpx.Client, error: httpx.TransportError) -> ApiError:
    """Say that the service can't be reached, and where it was looked for."""
    url = str(http.base_url).rstrip("/")
    if isinstance(error, httpx.TimeoutException):
        return ApiError(0, {"detail": f"The service at {url} took too long to answer."})
    return ApiError(0, {"detail": f"No service can be reached at {url}: is it running?"})


def _retry_after(response: httpx.Response) -> float | None:
    header = response.headers.get("retry-after", "")
    return float(header) if response.status_code == 503 and header.isdigit() else None
