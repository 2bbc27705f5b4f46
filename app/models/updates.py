from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import utc_now
from app.ids import new_id
from app.models.base import Base, JsonObject

_running = text("status = 'running'")
_active = text("active")


class Update(Base):
    """One fine-tuning run; attempt and token fence its runners."""

    __tablename__ = "updates"
    __table_args__ = (
        # One update at a time: a second claim breaks on this index.
        Index(
            "uq_updates_running",
            "status",
            unique=True,
            sqlite_where=_running,
            postgresql_where=_running,
        ),
        Index("ix_updates_status_id", "status", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("update"))
    kind: Mapped[str] = mapped_column(
        String(12), default="learn", doc="learn, rebuild or consolidate"
    )
    status: Mapped[str] = mapped_column(
        String(12), default="queued", doc="queued, running, succeeded, failed, cancelled"
    )
    phase: Mapped[str | None] = mapped_column(
        String(12), doc="preparing, training, proving, publishing"
    )
    outcome: Mapped[str | None] = mapped_column(String(12), doc="activated, held, rejected")
    reasons: Mapped[list[str]] = mapped_column(default=list, doc="Why that outcome, with numbers")
    activation: Mapped[str] = mapped_column(String(8), default="auto", doc="auto, manual, never")
    parent: Mapped[int | None] = mapped_column(
        ForeignKey("checkpoints.version"),
        doc="Version it starts from; set when claimed, or when planned",
    )
    replaces: Mapped[int | None] = mapped_column(
        ForeignKey("checkpoints.version"), doc="Version that it was planned to replace"
    )
    recipe: Mapped[JsonObject]
    progress: Mapped[JsonObject] = mapped_column(
        default=dict, doc="step, total_steps, percent, eta_s, loss"
    )
    error: Mapped[JsonObject | None] = mapped_column(doc="type and detail")
    attempt: Mapped[int] = mapped_column(default=0, doc="Trainer failures so far")
    token: Mapped[int] = mapped_column(default=0, doc="Raised by each claim; guards every write")
    owner: Mapped[str | None] = mapped_column(String(100), doc="The worker that claimed it")
    lease_until: Mapped[float | None] = mapped_column(doc="Database clock, seconds since 1970")
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    created_by: Mapped[str | None] = mapped_column(ForeignKey("keys.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class UpdateFact(Base):
    """A fact's part in an update: in a live one at most, proven or not in the end."""

    __tablename__ = "update_facts"
    __table_args__ = (
        Index(
            "uq_update_facts_active",
            "fact_id",
            unique=True,
            sqlite_where=_active,
            postgresql_where=_active,
        ),
        Index("ix_update_facts_fact", "fact_id"),
    )

    update_id: Mapped[str] = mapped_column(ForeignKey("updates.id"), primary_key=True)
    fact_id: Mapped[str] = mapped_column(ForeignKey("facts.id"), primary_key=True)
    active: Mapped[bool] = mapped_column(default=True, doc="While the update is queued or running")
    proven: Mapped[bool | None] = mapped_column(doc="Empty: never taught to the weights")


class Event(Base):
    """Something an update reported; its id is the SSE event id."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_update", "update_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    update_id: Mapped[str] = mapped_column(ForeignKey("updates.id"))
    type: Mapped[str] = mapped_column(String(20), doc="queued, started, progress, finished …")
    data: Mapped[JsonObject]
    at: Mapped[datetime] = mapped_column(default=utc_now)


class WorkerSeen(Base):
    """When each worker last looked at the database, for readiness and operators."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    seen_at: Mapped[float] = mapped_column(doc="Database clock, seconds since 1970")
    detail: Mapped[str | None] = mapped_column(Text)
