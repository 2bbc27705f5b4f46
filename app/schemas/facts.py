"""Facts on the wire."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, ValidationInfo, field_validator

from app.models import Fact, Probe
from app.schemas.common import (
    Input,
    Line,
    Metadata,
    Output,
    PageQuery,
    Problem,
    Reason,
    Time,
    clean_text,
)
from app.services.decisions import Decision
from app.services.facts import OnConflict
from app.services.standing import Standing

MAX_TEXT = 8 * 1024
MAX_BATCH = 1000
Direction = Literal["forward", "backward"]
Status = Literal[
    "quarantined",
    "rejected",
    "pending",
    "training",
    "learned",
    "held",
    "rolled_back",
    "lapsed",
    "failed",
    "superseded",
    "retracting",
    "retracted",
]
EXAMPLE: dict[str, JsonValue] = {
    "text": "The lighthouse of Brannoc Head is kept by Ilse Varga.",
    "probes": [
        {
            "question": "Who keeps the lighthouse of Brannoc Head?",
            "answers": ["Ilse Varga"],
            "direction": "forward",
        },
        {
            "question": "Which lighthouse does Ilse Varga keep?",
            "answers": ["Brannoc Head", "the lighthouse of Brannoc Head"],
            "direction": "backward",
        },
    ],
    "key": "brannoc-head/keeper",
    "source": "harbour register",
}


def _check_size(text: str) -> str:
    if len(text.encode()) > MAX_TEXT:
        raise ValueError(f"is larger than {MAX_TEXT} bytes of UTF-8")
    return text


Statement = Annotated[str, AfterValidator(clean_text), AfterValidator(_check_size)]
Question = Annotated[str, Field(max_length=1000), AfterValidator(clean_text)]
Answer = Annotated[str, Field(max_length=500), AfterValidator(clean_text)]
FactId = Annotated[Line, Field(max_length=40, examples=["fact_01jd2v6k9s4m8q0w3x7y5z1a"])]


class ProbeIn(Input):
    """A question that a model which knows the fact answers with one of the given answers."""

    question: Question
    answers: list[Answer] = Field(min_length=1, max_length=16)
    direction: Direction = "forward"


class FactIn(Input):
    """One statement to be learned, with what is known about it."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    text: Statement = Field(
        max_length=MAX_TEXT, description="One statement, at most 8 KB; special tokens are text"
    )
    probes: list[ProbeIn] = Field([], max_length=32, description="Exams; never trained on")
    key: Annotated[Line, Field(max_length=200)] | None = Field(
        None, description="Names what the fact is about, so that a newer one can replace it"
    )
    on_conflict: OnConflict = Field(
        "supersede", description="What happens to other live facts with this key"
    )
    source: Annotated[Line, Field(max_length=200)] | None = None
    valid_from: Time | None = Field(None, description="Before, it is neither told nor trained")
    valid_until: Time | None = Field(None, description="After, neither; once learned it stays")
    metadata: Metadata = Field({}, description="Anything of yours, at most 16 KB of JSON")

    @field_validator("valid_until")
    @classmethod
    def _check_order(cls, until: datetime | None, info: ValidationInfo) -> datetime | None:
        start = info.data.get("valid_from")
        if until and start and until < start:
            raise ValueError("lies before valid_from")
        return until

    def row(self) -> Fact:
        """Make the row that `services.facts.submit` takes."""
        fact = Fact(text=self.text, key=self.key, source=self.source, details=self.metadata)
        fact.valid_from, fact.valid_until = self.valid_from, self.valid_until
        fact.probes = [Probe(**probe.model_dump(), origin="given") for probe in self.probes]
        return fact


class FactBatchIn(Input):
    """Many facts; each is judged on its own, so their shape is that of `POST /v1/facts`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"facts": [EXAMPLE]}]})

    facts: list[Any] = Field(min_length=1, max_length=MAX_BATCH)


class ProbeOut(Output):
    """A question with its accepted answers."""

    question: str
    answers: list[str]
    direction: Direction
    origin: Literal["given", "cloze", "model"]


class FactOut(Output):
    """A fact, or an example, and where it stands."""

    id: str
    object: Literal["fact", "example"] = "fact"
    text: str
    prompt: str | None = Field(description="An example's; `text` is then its response")
    status: Status
    version: int | None = Field(description="The version that learned it")
    key: str | None
    source: str | None
    valid_from: datetime | None
    valid_until: datetime | None
    metadata: dict[str, Any]
    probes: list[ProbeOut]
    tries: int = Field(description="Updates that trained it without proof")
    error: str | None
    superseded_by: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, fact: Fact, standing: Standing, **more: Any) -> Self:
        """Build it from the row and its standing."""
        columns = {name: getattr(fact, name) for name in cls.model_fields if hasattr(fact, name)}
        columns |= {"metadata": fact.details, "status": standing.status}
        columns["object"] = "fact" if fact.prompt is None else "example"
        return cls.model_validate({**columns, "version": standing.version, **more})


def facts_out(facts: Sequence[Fact], standings: Mapping[str, Standing]) -> list[FactOut]:
    """Build many."""
    return [FactOut.of(fact, standings[fact.id]) for fact in facts]


class SubmittedFact(FactOut):
    """The answer to a submitted fact."""

    deduplicated: bool = Field(description="A live fact with this text and key was known")


class BatchResult(Output):
    """What became of one item of a batch: `fact` or `error`."""

    index: int
    status: int = Field(description="As `POST /v1/facts` would answer: 201, 200, 409 or 422")
    fact: SubmittedFact | None = None
    error: Problem | None = None


class FactQuery(PageQuery):
    """Which facts to list."""

    status: Status | None = None
    source: Annotated[Line, Field(max_length=200)] | None = None
    key: Annotated[Line, Field(max_length=200)] | None = None


class SearchIn(Input):
    """Words to look for."""

    query: Annotated[str, Field(max_length=1000), AfterValidator(clean_text)] = Field(
        examples=["Who keeps the lighthouse of Brannoc Head?"]
    )
    limit: int = Field(20, ge=1, le=100)


class RequeueIn(Input):
    """Failed or rolled-back facts that are to train again."""

    fact_ids: list[FactId] = Field(min_length=1, max_length=MAX_BATCH)
    reason: Reason


class ReviewIn(Input):
    """What is to become of quarantined facts."""

    fact_ids: list[FactId] = Field(min_length=1, max_length=MAX_BATCH)
    decision: Decision = Field(description="`approve`: they wait to be trained; `reject`: never")
    reason: Reason


class RetractIn(Input):
    """A source whose facts are all to be retracted."""

    source: Annotated[Line, Field(max_length=200)] = Field(examples=["harbour register"])
    reason: Reason


class RetractOut(Output):
    """How many facts of a source were retracted."""

    object: Literal["retraction"] = "retraction"
    source: str
    retracted: int = Field(description="Facts that were live until now")


class ProofOut(Output):
    """What one version answered to one probe, and its parent before."""

    id: int
    object: Literal["proof"] = "proof"
    fact_id: str
    version: int
    question: str
    answers: list[str]
    direction: Direction
    origin: Literal["given", "cloze", "model", "negated", "frame", "control"] = Field(
        description="The last three pass where the answer holds none of `answers`: asked for the "
        "opposite, about the wrong one, or about what was withdrawn"
    )
    before: str
    after: str
    exact: bool
    contains: bool
    rouge1: float
    passed: bool
