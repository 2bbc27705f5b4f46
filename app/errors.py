"""Domain errors: each knows its HTTP status, and its docstring is its default detail."""


class DomainError(Exception):
    """Something went wrong."""

    status = 500
    title = "Internal error"
    retry_after_s: int | None = None

    def __init__(self, detail: str | None = None, *, pointer: str | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.pointer = pointer
        super().__init__(self.detail)


class NotFound(DomainError):
    """There is no such thing."""

    status = 404
    title = "Not found"


class Conflict(DomainError):
    """The request doesn't fit the present state."""

    status = 409
    title = "Conflict"


class Invalid(DomainError):
    """The request is well formed but can't be accepted."""

    status = 422
    title = "Invalid request"


class Unauthorized(DomainError):
    """A valid API key is needed: Authorization: Bearer <key>."""

    status = 401
    title = "Unauthorized"


class Forbidden(DomainError):
    """This API key lacks the scope that the route needs."""

    status = 403
    title = "Forbidden"


class Unavailable(DomainError):
    """The service can't do this right now; try again."""

    status = 503
    title = "Unavailable"
    retry_after_s = 1


class CheckpointCorrupt(DomainError):
    """The checkpoint's files don't match its manifest."""

    title = "Checkpoint corrupt"
