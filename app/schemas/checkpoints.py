"""Checkpoints and activations on the wire."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field

from app.models import Activation, Checkpoint
from app.schemas.common import Input, Line, Output, PageQuery, Reason
from app.schemas.facts import Direction
from app.services.differences import Difference

Version = Annotated[int, Field(ge=0, le=2**31 - 1, examples=[7])]


class CheckpointOut(Output):
    """Immutable weights under a number; 0 is the base model."""

    version: int
    object: Literal["checkpoint"] = "checkpoint"
    digest: str = Field(description="SHA-256 of its manifest; the engine's name for it")
    parent: int | None
    status: Literal["ready", "rejected", "deleting", "deleted"]
    is_current: bool
    facts_count: int = Field(description="Facts learned in its lineage, less those found lost")
    metrics: dict[str, Any] = Field(
        description="What its update took: steps, seconds, tokens and how many of these were replay"
        " of older facts (older_tokens) and of the base model's answers (base_tokens)"
    )
    created_at: datetime
    update_id: str | None
    kind: Literal["full", "adapter"]
    label: str | None
    protected: bool

    @classmethod
    def of(cls, row: Checkpoint, current: Activation | None) -> Self:
        """Build from a row and the ledger's last one."""
        fields = {name: getattr(row, name) for name in cls.model_fields if hasattr(row, name)}
        return cls(**fields, is_current=current is not None and current.version == row.version)


class DiffQuery(PageQuery):
    """What to compare with, and which facts to ask about."""

    against: Version | None = Field(None, description="Left out: the version's parent")


class DifferenceOut(Output):
    """One question that two versions answer in other words."""

    fact_id: str
    question: str
    answers: list[str] = Field(description="Accepted ones")
    direction: Direction
    answer: str = Field(description="The version's")
    answer_against: str = Field(description="That of the one it is compared with")

    @classmethod
    def of(cls, found: Difference) -> Self:
        """Build from what was found."""
        return cls(
            fact_id=found.probe.fact_id,
            question=found.probe.question,
            answers=found.probe.answers,
            direction=found.probe.direction,
            answer=found.answers[0],
            answer_against=found.answers[1],
        )


class DiffOut(Output):
    """What two versions answer differently about one page of the facts that either learned."""

    object: Literal["diff"] = "diff"
    version: int
    against: int
    asked: int = Field(description="Questions that both were asked; clozes aren't")
    unasked: int = Field(description="Facts of the page that were proven by clozes alone")
    data: list[DifferenceOut]
    has_more: bool = Field(description="Ask again with `after` = the last fact")
    last: str | None = Field(description="The last fact that was asked about")


class CheckpointChange(Input):
    """What can change about a checkpoint; a field left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"label": "June release"}]})

    label: Annotated[Line, Field(max_length=200)] | None = Field(None, description="null: none")
    protected: bool = Field(False, description="Never deleted")


class ActivateIn(Input):
    """Why this version becomes current."""

    reason: Reason
    expected_current: Version | None = Field(None, description="409 unless this one is current")
    allow_retracted: bool = Field(
        False, description="Activate although it has learned facts that were retracted since"
    )


class RollbackIn(Input):
    """Why to go back, and where to."""

    reason: Reason
    to: Version | None = Field(
        None, description="Left out: the version that the last activation replaced"
    )
    expected_current: Version | None = Field(None, description="409 unless this one is current")


class ActivationOut(Output):
    """One row of the ledger of what was current."""

    id: int
    object: Literal["activation"] = "activation"
    version: int
    previous: int | None = Field(description="The version that it replaced")
    kind: Literal["initial", "automatic", "manual", "rollback"]
    reason: str | None
    actor: str
    at: datetime

    @classmethod
    def of(cls, row: Activation, replaced: Mapping[int, int]) -> Self:
        """Build from a row and what `activations.replaced_versions` says about it."""
        return cls(
            id=row.id,
            version=row.version,
            previous=replaced.get(row.id),
            kind=row.kind,
            reason=row.reason,
            actor=row.actor,
            at=row.at,
        )
