"""Every error as RFC 9457 problem+json, whatever raised it."""

import logging
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, InterfaceError, OperationalError, TimeoutError
from starlette.exceptions import HTTPException

from app.errors import DomainError, Invalid

OPENAI_PATHS = ("/v1/chat/completions", "/v1/models")
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_DETAILS = {404: "There is no such route.", 405: "The route doesn't take this method."}
# How pydantic names the branches of a union, which nobody sent.
_BRANCH = re.compile(r"(?:function-\w+|list|constrained-\w+)\[.*\]", re.DOTALL)
_SENT_IN = {"body", "query", "path", "header", "cookie"}
MOST_ERRORS = 20
MOST_POINTER = 200
Errors = list[dict[str, str]]
log = logging.getLogger(__name__)


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    title: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Build the response; OpenAI's routes also get the ``error`` member that its clients read."""
    return _respond(request, problem_body(request, status, detail, title=title), headers)


def _respond(
    request: Request, body: dict[str, Any], headers: dict[str, str] | None = None
) -> JSONResponse:
    if request.url.path.startswith(OPENAI_PATHS):
        body = {**body, "error": _openai_error(body)}
    if body["status"] == 401:
        headers = {"WWW-Authenticate": "Bearer", **(headers or {})}
    return JSONResponse(body, body["status"], headers, media_type="application/problem+json")


def problem_body(
    request: Request,
    status: int,
    detail: str,
    *,
    title: str | None = None,
    errors: Errors | None = None,
) -> dict[str, Any]:
    """Build the members of a problem."""
    body = {
        "type": "about:blank",
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "request_id": request.state.request_id,
    }
    return {**body, "errors": errors} if errors else body


def domain_body(request: Request, exc: DomainError) -> dict[str, Any]:
    """Build the members of the problem that a domain error is."""
    errors = [{"pointer": exc.pointer, "detail": exc.detail}] if exc.pointer else None
    return problem_body(request, exc.status, exc.detail, title=exc.title, errors=errors)


def validation_body(request: Request, found: Sequence[Any]) -> dict[str, Any]:
    """Build the members of the problem that pydantic's errors are, each field named."""
    errors = describe(found)
    detail = f"{errors[0]['pointer'] or 'The body'}: {errors[0]['detail']}"
    return problem_body(request, 422, detail, title=Invalid.title, errors=errors)


def _openai_error(body: dict[str, Any]) -> dict[str, Any]:
    status = body["status"]
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {
        "message": body["detail"],
        "type": kind,
        "param": body["errors"][0]["pointer"].lstrip("/") if "errors" in body else None,
        "code": body["title"].lower().replace(" ", "_"),
    }


def describe(found: Sequence[Any]) -> Errors:
    """Name each bad field and say what is wrong with it, never repeating a value that was sent."""
    return [
        {"pointer": pointer(error["loc"]), "detail": error["msg"].removeprefix("Value error, ")}
        for error in found[:MOST_ERRORS]
    ]


def pointer(loc: Sequence[int | str]) -> str:
    """Turn pydantic's location into a JSON pointer (RFC 6901) without where it was sent."""
    parts = loc[1:] if loc and loc[0] in _SENT_IN else loc
    parts = [part for part in parts if not _BRANCH.fullmatch(str(part))]
    text = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    # An unknown field's name comes from the client: it may be long, or no valid Unicode.
    return text[:MOST_POINTER].encode(errors="replace").decode()


def unexpected(request: Request) -> JSONResponse:
    """Build the answer to an error that nobody foresaw; it tells nothing of what happened."""
    detail = "Something went wrong here; quote the request id when you report it."
    return problem(request, 500, detail, title=DomainError.title)


def install(app: FastAPI) -> None:
    """Answer every foreseen exception with a problem; `middleware` answers the others."""
    app.add_exception_handler(DomainError, _domain)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DataError, _data)
    for kind in (OperationalError, InterfaceError, TimeoutError):
        app.add_exception_handler(kind, _database)


def _domain(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, DomainError)  # noqa: S101 - narrows the type
    headers = {"Retry-After": str(exc.retry_after_s)} if exc.retry_after_s else None
    return _respond(request, domain_body(request, exc), headers)


def _validation(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - narrows the type
    first = exc.errors()[0]
    if first["type"] == "json_invalid":
        detail = f"The body isn't valid JSON: {first['ctx']['error']} at {first['loc'][1]}."
        return _respond(request, problem_body(request, 422, detail, title=Invalid.title))
    return _respond(request, validation_body(request, exc.errors()))


def _http(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)  # noqa: S101 - narrows the type
    status, detail = exc.status_code, _DETAILS.get(exc.status_code, str(exc.detail))
    if isinstance(exc.__cause__, UnicodeDecodeError):
        status, detail = 422, "The body isn't valid UTF-8."
    return problem(request, status, detail, headers=dict(exc.headers or {}))


def _data(request: Request, exc: Exception) -> JSONResponse:
    # What no schema caught and the database refuses: a NUL character, a number out of range.
    log.info("refused by the database", exc_info=exc)
    detail = "The request holds a value that can't be stored or looked up."
    return problem(request, 422, detail, title=Invalid.title)


def _database(request: Request, exc: Exception) -> JSONResponse:
    log.error("database unavailable", exc_info=exc)
    detail = "The database can't be reached right now; try again."
    return problem(request, 503, detail, title="Unavailable", headers={"Retry-After": "1"})
