"""The table of resends: a row stands for a letter whose frame is on `ingest` again."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, DateTime, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base


class DeadLetterResend(Base):
    """Written in the transaction that sends, so that no row stands for what was not sent."""

    __tablename__ = "dead_letter_resends"
    __table_args__ = (CheckConstraint("letter_id ~ '^sequencer(:[0-9]+){3,4}$'", name="id_form"),)

    letter_id: Mapped[str] = mapped_column(Text, primary_key=True)
    topic: Mapped[str] = mapped_column(Text)
    # NULL: the broker had the frame already, of an attempt whose answer was lost.
    position: Mapped[str | None] = mapped_column(Text)
    resent_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
