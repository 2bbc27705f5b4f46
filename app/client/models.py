"""What the service answers, as typed values; fields that a newer service adds are ignored."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

FINISHED = frozenset({"succeeded", "failed", "cancelled"})


class Wire(BaseModel):
    """A frozen value read from JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Probe(Wire):
    """A question with its accepted answers; ``direction`` is forward or backward."""

    question: str
    answers: list[str]
    direction: str
    origin: str = "given"


class Fact(Wire):
    """One statement and where it stands; an example has a prompt, its text is the response."""

    id: str
    text: str
    prompt: str | None = None
    status: str
    version: int | None = None
    deduplicated: bool = False
    key: str | None = None
    source: str | None = None
    probes: list[Probe] = []
    error: str | None = None
    created_at: datetime | None = None


class Example(Wire):
    """A prompt with its response, and where it stands."""

    id: str
    prompt: str
    response: str
    answers: list[str] = []
    status: str
    version: int | None = None
    deduplicated: bool = False
    source: str | None = None


class BatchItem(Wire):
    """What became of one item of a batch: a fact or example, or a problem that says why not."""

    index: int
    status: int
    fact: Fact | None = None
    example: Example | None = None
    error: dict[str, Any] | None = None


class Proof(Probe):
    """What one version answered to one probe of a fact, and its parent before."""

    version: int
    before: str
    after: str
    passed: bool


class Progress(Wire):
    """How far an update is: ``percent`` from 0 to 100, ``loss`` in nats per token."""

    step: int | None = None
    total_steps: int | None = None
    percent: float | None = None
    eta_s: float | None = None
    loss: float | None = None


class Update(Wire):
    """One fine-tuning run."""

    id: str
    kind: str
    status: str
    phase: str | None = None
    outcome: str | None = None
    reasons: list[str] = []
    progress: Progress = Progress()
    parent: int | None = None
    version: int | None = None
    fact_ids: list[str] = []
    error: dict[str, Any] | None = None
    created_at: datetime | None = None

    @property
    def is_finished(self) -> bool:
        """Say whether nothing more will happen to it."""
        return self.status in FINISHED


class Event(Wire):
    """Something that an update reported."""

    id: int
    type: str
    data: dict[str, Any]


class Checkpoint(Wire):
    """One immutable version of the model."""

    version: int
    digest: str
    status: str
    parent: int | None = None
    is_current: bool = False
    facts_count: int = 0
    label: str | None = None
    protected: bool = False
    update_id: str | None = None
    created_at: datetime | None = None
    metrics: dict[str, Any] = {}


class Difference(Probe):
    """A question that two versions answer in other words; ``answer_against`` is the other's."""

    fact_id: str
    answer: str
    answer_against: str


class Activation(Wire):
    """One entry of the ledger that says which version is current."""

    version: int
    previous: int | None = None
    kind: str | None = None
    reason: str | None = None
    actor: str
    at: datetime


class Answer(Wire):
    """An answer, which version gave it, and whether it came from the weights or from context."""

    id: str
    answer: str
    version: int
    checkpoint: str
    source: str
    facts: list[dict[str, Any]] = []
    latency_ms: float


class Key(Wire):
    """An API key; ``secret`` is there once, when it is made."""

    id: str
    name: str
    scopes: list[str]
    secret: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
