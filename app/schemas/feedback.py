"""Feedback on the wire."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, field_validator

from app.models import Feedback
from app.schemas.answers import Question
from app.schemas.checkpoints import Version
from app.schemas.common import Input, Output, Said
from app.schemas.facts import Statement

MAX_ANSWER = 32 * 1024


def _check_size(text: str) -> str:
    if len(text.encode()) > MAX_ANSWER:
        raise ValueError(f"is larger than {MAX_ANSWER} bytes of UTF-8")
    return text


class FeedbackIn(Input):
    """Whether a version's answer was right and, where it wasn't, what is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "question": "Who keeps the lighthouse of Brannoc Head?",
                    "answer": "Odo Lanark",
                    "version": 0,
                    "correct": False,
                    "correction": "The lighthouse of Brannoc Head is kept by Ilse Varga.",
                }
            ]
        }
    )

    question: Question
    answer: Annotated[Said, AfterValidator(_check_size)]
    version: Version = Field(description="The version that answered")
    correct: bool
    correction: Statement | None = Field(
        None, description="One statement; a fact once an administrator has approved it"
    )

    @field_validator("correction")
    @classmethod
    def _check_need(cls, correction: str | None, info: ValidationInfo) -> str | None:
        if correction is not None and info.data.get("correct"):
            raise ValueError("is given although the answer is said to be correct")
        return correction

    def row(self) -> Feedback:
        """Make the row that `services.feedback.give` takes."""
        return Feedback(**self.model_dump())


class FeedbackOut(Output):
    """Feedback as it is stored."""

    id: str
    object: Literal["feedback"] = "feedback"
    question: str
    answer: str
    version: int
    correct: bool
    correction: str | None
    fact_id: str | None = Field(description="The correction as a fact; the known one if it is one")
    fact_status: str | None = Field(description="`quarantined` until it is reviewed")
    created_at: datetime

    @classmethod
    def of(cls, row: Feedback, status: str | None) -> Self:
        """Build it from the row and where the correction's fact stands."""
        columns = {name: getattr(row, name) for name in cls.model_fields if hasattr(row, name)}
        return cls.model_validate({**columns, "fact_status": status})
