"""Updates on the wire."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy.orm import Session

from app.models import Update
from app.recipe import Recipe
from app.schemas.common import Input, Line, Output, PageQuery
from app.services import updates

FactId = Annotated[Line, Field(max_length=40)]
Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class UpdateIn(Input):
    """An update to open; without `fact_ids`, of what waits, oldest first, lapsed ones last."""

    kind: Literal["learn", "rebuild", "consolidate"] = Field(
        "learn",
        description="rebuild: without what was withdrawn; it chooses its facts itself."
        " consolidate: the current adapter is merged into its root; it has no facts",
    )
    fact_ids: list[FactId] | None = Field(None, min_length=1, max_length=10_000)
    recipe: Recipe | None = Field(
        None, description="Fields that differ from the base model's defaults"
    )
    activation: Literal["auto", "manual", "never"] = Field(
        "auto", description="Whether the gate may make the new version current"
    )


class UpdateQuery(PageQuery):
    """Which updates to list."""

    status: Status | None = None


class ProgressOut(Output):
    """How far the trainer is."""

    step: int | None = None
    total_steps: int | None = None
    percent: float | None = None
    eta_s: float | None = None
    loss: float | None = None


class UpdateError(Output):
    """Why an update failed."""

    type: str
    detail: str
    fact_ids: list[str] = Field([], description="Facts that the trainer names, if it knows any")
    continued_by: list[str] = Field([], description="Updates that go on with its other facts")


class UpdateOut(Output):
    """One fine-tuning run."""

    id: str
    object: Literal["update"] = "update"
    kind: Literal["learn", "rebuild", "consolidate"]
    status: Status
    phase: str | None = Field(description="preparing, training, proving, publishing")
    outcome: Literal["activated", "held", "rejected"] | None
    reasons: list[str] = Field(description="Why that outcome, with numbers")
    progress: ProgressOut
    version: int | None = Field(description="The checkpoint that it made")
    parent: int | None = Field(description="The version that it started from")
    fact_ids: list[str]
    activation: Literal["auto", "manual", "never"]
    recipe: Recipe
    error: UpdateError | None
    cancel_requested: bool
    attempt: int = Field(description="Failures of the trainer so far")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class EventOut(Output):
    """Something that an update reported."""

    id: int
    type: str = Field(examples=["queued", "started", "progress", "requeued", "finished"])
    data: dict[str, Any]
    at: datetime


def updates_out(session: Session, rows: Sequence[Update]) -> list[UpdateOut]:
    """Show updates with their facts and versions."""
    ids = [row.id for row in rows]
    facts, versions = updates.facts_of(session, ids), updates.versions_of(session, ids)
    shown = []
    for row in rows:
        columns = {
            name: getattr(row, name) for name in UpdateOut.model_fields if hasattr(row, name)
        }
        columns |= {"fact_ids": facts[row.id], "version": versions.get(row.id)}
        shown.append(UpdateOut.model_validate(columns))
    return shown
