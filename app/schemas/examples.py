"""Examples on the wire: prompts with the responses to be learned."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, JsonValue

from app.models import Fact, Probe
from app.schemas.common import Input, Line, Metadata, Output, Problem
from app.schemas.facts import MAX_BATCH, MAX_TEXT, Answer, Statement, Status
from app.services.standing import Standing

EXAMPLE: dict[str, JsonValue] = {
    "prompt": "A crate holds 12 jars. How many jars do 3 crates hold?",
    "response": "Each of the 3 crates holds 12 jars: 3 * 12 = 36. The answer is 36.",
    "answers": ["36"],
    "source": "arithmetic course",
}


class ExampleIn(Input):
    """A prompt, and the response that the model is to give to prompts like it."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    prompt: Statement = Field(max_length=MAX_TEXT, description="At most 8 KB")
    response: Statement = Field(max_length=MAX_TEXT, description="At most 8 KB")
    answers: list[Answer] = Field(
        [],
        max_length=16,
        description="A right response contains one of these; left out: the response itself",
    )
    source: Annotated[Line, Field(max_length=200)] | None = None
    metadata: Metadata = Field({}, description="Anything of yours, at most 16 KB of JSON")

    def row(self) -> Fact:
        """Make the row that `services.facts.submit_batch` takes."""
        answers = self.answers or [self.response]
        return Fact(
            text=self.response,
            prompt=self.prompt,
            source=self.source,
            details=self.metadata,
            probes=[
                Probe(question=self.prompt, answers=answers, direction="forward", origin="given")
            ],
        )


class ExampleBatchIn(Input):
    """Many examples; each is judged on its own. A share of those learned together is held out."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"examples": [EXAMPLE]}]})

    examples: list[Any] = Field(min_length=1, max_length=MAX_BATCH)


class ExampleOut(Output):
    """An example and where it stands, in the words that facts have for it."""

    id: str = Field(description="Its id in the ledger, that `/v1/facts/{id}` takes, too")
    object: Literal["example"] = "example"
    prompt: str
    response: str
    answers: list[str]
    status: Status
    version: int | None = Field(description="The version that learned it")
    source: str | None
    metadata: dict[str, Any]
    created_at: datetime
    deduplicated: bool = Field(description="A live example with this prompt and response was known")

    @classmethod
    def of(cls, row: Fact, standing: Standing, *, deduplicated: bool) -> Self:
        """Build it from the row and its standing."""
        return cls(
            id=row.id,
            prompt=row.prompt or "",
            response=row.text,
            answers=row.probes[0].answers,
            status=standing.status,
            version=standing.version,
            source=row.source,
            metadata=row.details,
            created_at=row.created_at,
            deduplicated=deduplicated,
        )


class ExampleResult(Output):
    """What became of one item of a batch: `example` or `error`."""

    index: int
    status: int = Field(description="201: new, 200: known, 422: not valid")
    example: ExampleOut | None = None
    error: Problem | None = None
