"""Shapes that every noun shares: clean text, times, lists, problems."""

import json
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from app.services.pages import Page

MAX_METADATA = 16 * 1024
Item = TypeVar("Item")


class Input(BaseModel):
    """A request's body: a field that it doesn't know is an error, not a wish."""

    model_config = ConfigDict(extra="forbid")


class Output(BaseModel):
    """An answer, read from a row or built."""

    model_config = ConfigDict(from_attributes=True)


def clean_text(text: str) -> str:
    """Normalise to NFC and strip; ValueError on what can't be stored, shown or asked."""
    text = unicodedata.normalize("NFC", text).strip()
    for character in text:
        kind = unicodedata.category(character)
        if kind == "Cs":
            raise ValueError("contains half of a surrogate pair, which is no character")
        if kind == "Cc" and character not in "\n\t":
            raise ValueError(f"contains the control character U+{ord(character):04X}")
    if not any(character.isprintable() and character != " " for character in text):
        raise ValueError("has nothing to read in it")
    return text


def clean_or_empty(text: str) -> str:
    """Clean what a model may have said, which can be nothing."""
    return clean_text(text) if text.strip() else ""


def unify_newlines(text: object) -> object:
    """Write every line end as one character."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if isinstance(text, str) else text


def clean_line(text: str) -> str:
    """Clean a text that must stand on one line."""
    text = clean_text(text)
    if "\n" in text or "\t" in text:
        raise ValueError("must be one line without tabs")
    return text


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("lies outside the calendar") from None


def _check_metadata(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except UnicodeEncodeError:
        raise ValueError("contains half of a surrogate pair, which is no character") from None
    except (ValueError, RecursionError):
        raise ValueError("must be plain JSON: finite numbers, not too deep") from None
    if size > MAX_METADATA:
        raise ValueError(f"is larger than {MAX_METADATA} bytes")
    return value


Line = Annotated[str, AfterValidator(clean_line)]
Said = Annotated[str, BeforeValidator(unify_newlines), AfterValidator(clean_or_empty)]
Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_check_metadata)]
Reason = Annotated[Line, Field(max_length=500, examples=["source withdrawn"])]


class PageQuery(Input):
    """``?after&limit&order`` of lists whose ids are text."""

    after: Line | None = Field(None, max_length=40, description="Go on after this id")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = Field("desc", description="`desc`: newest first")

    def page(self) -> Page:
        """Turn into what services take."""
        return Page(self.after, self.limit, self.order)


class NumberedPageQuery(Input):
    """``?after&limit&order`` of lists whose ids are numbers."""

    after: int | None = Field(None, ge=0, le=2**31 - 1, description="Go on after this number")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = Field("desc", description="`desc`: newest first")

    def page(self) -> Page:
        """Turn into what services take."""
        return Page(self.after, self.limit, self.order)


class ListOf(Output, Generic[Item]):
    """One page of a list."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool = Field(False, description="Ask again with `after` = the last id")


class FieldError(Output):
    """What is wrong with one field."""

    pointer: str = Field(description="JSON pointer", examples=["/text"])
    detail: str


class Problem(Output):
    """An error (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(examples=["Invalid request"])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["/text: has nothing to read in it"])
    instance: str = Field(description="The path that was asked", examples=["/v1/facts"])
    request_id: str
    errors: list[FieldError] | None = None
    error: dict[str, Any] | None = Field(None, description="OpenAI's form, on OpenAI's routes only")

    @model_serializer(mode="wrap")
    def _drop_empty(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}
