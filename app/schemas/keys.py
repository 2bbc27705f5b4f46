"""API keys on the wire."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, field_validator

from app.db import utc_now
from app.schemas.common import Input, Line, Output, Time
from app.services.keys import Scope


class KeyIn(Input):
    """A key to make."""

    name: Annotated[Line, Field(max_length=100)] = Field(examples=["support chatbot"])
    scopes: list[Scope] = Field(min_length=1, description="`admin` implies all others")
    expires_at: Time | None = None

    @field_validator("expires_at")
    @classmethod
    def _check_expiry(cls, expires_at: datetime | None) -> datetime | None:
        if expires_at and expires_at <= utc_now():
            raise ValueError("lies in the past")
        return expires_at


class KeyOut(Output):
    """A key without its secret."""

    id: str
    object: Literal["key"] = "key"
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewKey(KeyOut):
    """A key just made; its secret is shown this once."""

    secret: str
