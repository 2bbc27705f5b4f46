"""The audit trail on the wire."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.common import Line, NumberedPageQuery, Output


class AuditOut(Output):
    """One act: who did what to which thing, and why."""

    id: int
    object: Literal["audit"] = "audit"
    at: datetime
    actor: str
    act: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    reason: str | None
    request_id: str | None


class AuditQuery(NumberedPageQuery):
    """Which acts to list."""

    actor: Annotated[Line, Field(max_length=100)] | None = None
    act: Annotated[Line, Field(max_length=40)] | None = Field(None, examples=["fact.submit"])
    subject: Annotated[Line, Field(max_length=100)] | None = None
