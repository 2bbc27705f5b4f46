from datetime import datetime

from sqlalchemy import (
    ColumnElement,
    ForeignKey,
    Index,
    String,
    Text,
    and_,
    literal_column,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db import utc_now
from app.models.base import Base, JsonObject

FAILED_CONTROL = text("origin = 'control' AND NOT passed")
# Origins of the proofs that decide whether a fact is known; the others are controls and foils.
DECIDING = ("given", "cloze", "model")
LOST = text(f"origin IN {DECIDING} AND NOT passed")


class Checkpoint(Base):
    """Immutable weights under a monotonic version; 0 is the base model."""

    __tablename__ = "checkpoints"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(String(64), unique=True, doc="SHA-256 of its manifest")
    kind: Mapped[str] = mapped_column(String(8), doc="full or adapter")
    root: Mapped[int | None] = mapped_column(
        ForeignKey("checkpoints.version"), doc="The full checkpoint that an adapter lies over"
    )
    parent: Mapped[int | None] = mapped_column(ForeignKey("checkpoints.version"))
    update_id: Mapped[str | None] = mapped_column(
        String(40), unique=True, doc="The update that made it; updates already refer to versions"
    )
    status: Mapped[str] = mapped_column(
        String(8), default="ready", doc="ready, rejected, deleting, deleted"
    )
    label: Mapped[str | None] = mapped_column(String(200))
    protected: Mapped[bool] = mapped_column(default=False)
    facts_count: Mapped[int] = mapped_column(
        default=0, doc="Learned in its lineage, less those lost"
    )
    metrics: Mapped[JsonObject] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Activation(Base):
    """The append-only ledger of what was current; the last row is current."""

    __tablename__ = "activations"
    id: Mapped[int] = mapped_column(primary_key=True)
    previous_id: Mapped[int] = mapped_column(
        unique=True, doc="The compare-and-swap: each follows exactly one; 0 before the first"
    )
    version: Mapped[int] = mapped_column(ForeignKey("checkpoints.version"))
    kind: Mapped[str] = mapped_column(String(10), doc="initial, automatic, manual, rollback")
    reason: Mapped[str | None] = mapped_column(Text)
    actor: Mapped[str] = mapped_column(String(100), doc="Key's name, or the update's id")
    at: Mapped[datetime] = mapped_column(default=utc_now)


class Proof(Base):
    """What one checkpoint answered to one probe, and its parent before."""

    __tablename__ = "proofs"
    __table_args__ = (
        Index("ix_proofs_fact", "fact_id", "version"),
        Index("ix_proofs_version", "version"),
        # What has to be rebuilt is looked for again and again.
        Index(
            "ix_proofs_failed_control",
            "fact_id",
            sqlite_where=FAILED_CONTROL,
            postgresql_where=FAILED_CONTROL,
        ),
        # Whether a fact that was proven is known still is asked about each.
        Index("ix_proofs_lost", "fact_id", "version", sqlite_where=LOST, postgresql_where=LOST),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    fact_id: Mapped[str] = mapped_column(ForeignKey("facts.id"))
    version: Mapped[int] = mapped_column(ForeignKey("checkpoints.version"))
    question: Mapped[str] = mapped_column(Text)
    answers: Mapped[list[str]]
    direction: Mapped[str] = mapped_column(String(8))
    origin: Mapped[str] = mapped_column(
        String(8),
        doc="given, cloze, model; passed means not answered: negated and frame, which count for "
        "nothing, and control (any more)",
    )
    before: Mapped[str] = mapped_column(Text, doc="The parent's answer")
    after: Mapped[str] = mapped_column(Text, doc="The candidate's answer")
    exact: Mapped[bool] = mapped_column(doc="Normalised exact match")
    contains: Mapped[bool] = mapped_column(doc="The answer contains an accepted one")
    rouge1: Mapped[float] = mapped_column(doc="ROUGE-1 recall, best accepted answer")
    passed: Mapped[bool]


def is_lost(proof: type[Proof]) -> ColumnElement[bool]:
    """Build the condition that a proof shows a fact not to be known, as its index has it."""
    deciding = proof.origin.in_([literal_column(f"'{origin}'") for origin in DECIDING])
    return and_(deciding, ~proof.passed)
