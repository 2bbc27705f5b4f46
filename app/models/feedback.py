from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import utc_now
from app.ids import new_id
from app.models.base import Base


class Feedback(Base):
    """What a reader says about one version's answer; append-only."""

    __tablename__ = "feedback"
    __table_args__ = (Index("ix_feedback_version", "version", "id"),)

    id: Mapped[str] = mapped_column(
        String(40), primary_key=True, default=lambda: new_id("feedback")
    )
    question: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(ForeignKey("checkpoints.version"))
    correct: Mapped[bool]
    correction: Mapped[str | None] = mapped_column(Text, doc="What would have been right")
    fact_id: Mapped[str | None] = mapped_column(
        ForeignKey("facts.id"), doc="The correction as a fact, new or known"
    )
    created_by: Mapped[str | None] = mapped_column(ForeignKey("keys.id"))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
