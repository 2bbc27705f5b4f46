"""Every error as RFC 9457 problem+json, whatever raised it."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, InterfaceError, OperationalError, TimeoutError
from starlette.exceptions import HTTPException

from app.errors import DomainError

OPENAI_PATHS = ("/v1/chat/completions", "/v1/models")
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_OURS = {"body", "query", "path", "header", "cookie"}
log = logging.getLogger(__name__)


def problem(
    request: Request,
    status: int,
    detail: str,
    *,
    title: str | None = None,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """Build the response; OpenAI's routes also get the ``error`` member that its clients read."""
    title = title or HTTPStatus(status).phrase
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.url.path,
        "request_id": request.state.request_id,
    }
    if errors:
        body["errors"] = errors
    if request.url.path.startswith(OPENAI_PATHS):
        body["error"] = _openai_error(status, title, detail, errors)
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer", **(headers or {})}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _openai_error(
    status: int, title: str, detail: str, errors: list[dict[str, str]] | None
) -> dict[str, Any]:
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = errors[0]["pointer"].lstrip("/") if errors else None
    return {
        "message": detail,
        "type": kind,
        "param": param,
        "code": title.lower().replace(" ", "_"),
    }


def pointer(loc: tuple[int | str, ...]) -> str:
    """Turn pydantic's location into a JSON pointer (RFC 6901) without where it was sent."""
    parts = loc[1:] if loc and loc[0] in _OURS else loc
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def describe(errors: Any) -> list[dict[str, str]]:
    """Name each bad field and say what is wrong with it, never repeating what was sent."""
    return [
        {"pointer": pointer(error["loc"]), "detail": error["msg"].removeprefix("Value error, ")}
        for error in errors
    ]


def install(app: FastAPI) -> None:
    """Answer every exception with a problem."""
    app.add_exception_handler(DomainError, _domain)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(DataError, _data)
    for kind in (OperationalError, InterfaceError, TimeoutError):
        app.add_exception_handler(kind, _database)
    app.add_exception_handler(Exception, _unexpected)


def _domain(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, DomainError)  # noqa: S101 - narrows the type
    errors = [{"pointer": exc.pointer, "detail": exc.detail}] if exc.pointer else None
    headers = {"Retry-After": str(exc.retry_after_s)} if exc.retry_after_s else None
    return problem(
        request, exc.status, exc.detail, title=exc.title, errors=errors, headers=headers
    )


def _validation(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, RequestValidationError)  # noqa: S101 - narrows the type
    errors = describe(exc.errors())
    if exc.errors() and exc.errors()[0]["type"] == "json_invalid":
        detail = f"The body isn't valid JSON: {exc.errors()[0]['ctx']['error']}."
        return problem(request, 422, detail, title="Invalid request")
    first = errors[0]
    detail = f"{first['pointer'] or 'The body'}: {first['detail']}"
    return problem(request, 422, detail, title="Invalid request", errors=errors)


def _http(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)  # noqa: S101 - narrows the type
    status, detail = exc.status_code, str(exc.detail)
    if isinstance(exc.__cause__, UnicodeDecodeError):
        status, detail = 422, "The body isn't valid UTF-8."
    return problem(request, status, detail, headers=dict(exc.headers or {}))


def _data(request: Request, exc: Exception) -> JSONResponse:
    # What no schema caught and the database refuses: a NUL character, a number out of range.
    log.info("refused by the database", exc_info=exc)
    return problem(request, 422, "The request holds a value that can't be stored or looked up.")


def _database(request: Request, exc: Exception) -> JSONResponse:
    log.error("database unavailable", exc_info=exc)
    detail = "The database can't be reached right now; try again."
    return problem(request, 503, detail, title="Unavailable", headers={"Retry-After": "1"})


def _unexpected(request: Request, exc: Exception) -> JSONResponse:
    log.error("unexpected error", exc_info=exc)
    detail = "Something went wrong here; quote the request id when you report it."
    return problem(request, 500, detail, title="Internal error")
