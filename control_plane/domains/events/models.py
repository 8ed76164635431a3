"""The tables of events: a row each, written with the change, numbered once it is committed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Identity,
    Index,
    Integer,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base


class EventRow(Base):
    """One thing that has changed; immutable but for its number."""

    __tablename__ = "events"
    __table_args__ = (
        Index("uq_events_number", "number", unique=True),
        Index("ix_events_consumer", "consumer_id", "number"),
        Index("ix_events_unnumbered", "id", postgresql_where=text("number IS NULL")),
        CheckConstraint("number >= 1", name="number_positive"),
        CheckConstraint("jsonb_typeof(data) = 'object'", name="data_object"),
    )

    # In the order of writing, which is not that in which transactions commit.
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # In an order that readers can go by; NULL until somebody gives it.
    number: Mapped[int | None] = mapped_column(BigInteger)
    type: Mapped[str] = mapped_column(Text)
    # Whose it is; NULL for what is the platform team's.
    consumer_id: Mapped[str | None] = mapped_column(Text)
    subscription_id: Mapped[str | None] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(JSONB)
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )


class EventLog(Base):
    """Up to where events are numbered and forgotten: one row, locked by who gives numbers."""

    __tablename__ = "event_log"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("forgotten >= 0 AND forgotten <= newest", name="forgotten_are_numbered"),
    )

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    newest: Mapped[int] = mapped_column(BigInteger, server_default="0")
    forgotten: Mapped[int] = mapped_column(BigInteger, server_default="0")
