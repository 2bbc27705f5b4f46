from datetime import datetime

from sqlalchemy import JSON, ForeignKey, Index, String, Text, literal_column, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import utc_now
from app.ids import new_id
from app.models.base import Base, JsonObject

LIVE = ("quarantined", "pending", "training", "trained", "failed", "lapsed")
WAITING = ("pending", "training", "failed", "lapsed")
_live = text(f"status IN {LIVE}")


class Fact(Base):
    """One submitted statement, or example, and where it stands."""

    __tablename__ = "facts"
    __table_args__ = (
        # Dedup: one live fact per text and key, whatever races.
        Index(
            "uq_facts_live_digest",
            "text_digest",
            unique=True,
            sqlite_where=_live,
            postgresql_where=_live,
        ),
        Index("ix_facts_status_id", "status", "id"),
        Index("ix_facts_key_id", "key", "id"),
        Index("ix_facts_source_id", "source", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True, default=lambda: new_id("fact"))
    text: Mapped[str] = mapped_column(Text, doc="The statement, normalised to NFC, stripped")
    prompt: Mapped[str | None] = mapped_column(Text, doc="An example's: its text is the response")
    text_digest: Mapped[str] = mapped_column(String(64), doc="SHA-256 of text, key and prompt")
    status: Mapped[str] = mapped_column(
        String(16),
        doc="quarantined, rejected, pending, training, trained, lapsed, failed, superseded, "
        "retracted",
    )
    key: Mapped[str | None] = mapped_column(String(200), doc="Names what the fact is about")
    source: Mapped[str | None] = mapped_column(String(200), doc="Who says so")
    valid_from: Mapped[datetime | None]
    valid_until: Mapped[datetime | None]
    details: Mapped[JsonObject] = mapped_column("metadata", default=dict)
    studied: Mapped[list[list[str]]] = mapped_column(
        JSON, default=list, doc="Questions that the model wrote about it, each with its answer"
    )
    tries: Mapped[int] = mapped_column(default=0, doc="Updates without proof; three: failed")
    error: Mapped[str | None] = mapped_column(Text, doc="Why it failed or was rejected")
    superseded_by: Mapped[str | None] = mapped_column(ForeignKey("facts.id"))
    created_by: Mapped[str | None] = mapped_column(ForeignKey("keys.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(default=utc_now, onupdate=utc_now)

    probes: Mapped[list["Probe"]] = relationship(
        lazy="raise", order_by="Probe.id", cascade="all, delete-orphan"
    )

    def holds(self, at: datetime) -> bool:
        """Say whether a time lies within its dates."""
        begun = self.valid_from is None or self.valid_from <= at
        return begun and (self.valid_until is None or at < self.valid_until)


# In literal words, as the partial indexes have them: with parameters they wouldn't be used.
IS_LIVE = Fact.status.in_([literal_column(f"'{status}'") for status in LIVE])
IS_WAITING = Fact.status.in_([literal_column(f"'{status}'") for status in WAITING])


class Probe(Base):
    """A question with its accepted answers: an exam, never a lesson (decision 9)."""

    __tablename__ = "probes"

    id: Mapped[int] = mapped_column(primary_key=True)
    fact_id: Mapped[str] = mapped_column(ForeignKey("facts.id"), index=True)
    question: Mapped[str] = mapped_column(Text)
    answers: Mapped[list[str]]
    direction: Mapped[str] = mapped_column(String(8), doc="forward or backward")
    origin: Mapped[str] = mapped_column(String(8), default="given", doc="given, cloze or model")
