"""What a successful trainer writes into result.json."""

from typing import Literal

from pydantic import BaseModel

from app.models import Probe
from app.models.base import JsonObject


class ProvenProbe(BaseModel):
    """One question, answered by the parent and by the candidate."""

    question: str
    answers: list[str]
    direction: str
    origin: str
    before: str
    after: str
    exact: bool
    contains: bool
    rouge1: float
    passed: bool


class ProvenFact(BaseModel):
    """What the candidate knows of one fact."""

    id: str
    proven: bool
    probes: list[ProvenProbe]
    foils: list[ProvenProbe] = []
    studied: list[tuple[str, str]] = []  # questions that the parent wrote, each with its answer

    def written(self) -> list[Probe]:
        """Make the rows of the probes that the trainer wrote."""
        names = {"question", "answers", "direction", "origin"}
        return [
            Probe(fact_id=self.id, **probe.model_dump(include=names))
            for probe in self.probes
            if probe.origin != "given"
        ]


class AskedProbe(ProvenProbe):
    """A control's question; `known` says that the parent answered it rightly too."""

    known: bool


class Control(BaseModel):
    """What the candidate still says of a withdrawn fact."""

    id: str
    probes: list[AskedProbe]


class Verdict(BaseModel):
    """What the gate says, and why."""

    outcome: Literal["activate", "hold", "reject"]
    reasons: list[str]


class Result(BaseModel):
    """A successful trainer's result.json."""

    status: Literal["succeeded"]
    digest: str
    facts: list[ProvenFact]
    regressions: JsonObject
    verdict: Verdict
    metrics: JsonObject
    controls: list[Control] = []
    lapsed: list[ProvenFact] = []  # learned before, and not proven any more
