"""The table of subscriptions, with their state machine as constraints."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from control_plane.database import Base
from control_plane.domains.consumers.models import Consumer
from control_plane.domains.plans.models import ViewRow

UNIQUE_NAME = "uq_subscriptions_consumer_name_live"


class State(StrEnum):
    """pending → active → closed; a pending subscription may be closed too."""

    PENDING = "pending"
    ACTIVE = "active"
    CLOSED = "closed"


LIVE = (State.PENDING, State.ACTIVE)
"""What is not closed."""


class Subscription(Base):
    """One subscription of a consumer to a view."""

    __tablename__ = "subscriptions"
    __table_args__ = (
        Index(
            UNIQUE_NAME,
            "consumer_id",
            "name",
            unique=True,
            postgresql_where=text("state <> 'closed'"),
        ),
        Index("ix_subscriptions_view_live", "view_id", postgresql_where=text("state <> 'closed'")),
        Index("ix_subscriptions_pending", "plan", postgresql_where=text("state = 'pending'")),
        Index(
            "ix_subscriptions_cursor_left",
            "closed_in_plan",
            postgresql_where=text("state = 'closed' AND cursor_removed_at IS NULL"),
        ),
        CheckConstraint("id ~ '^s[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name="name_form"),
        CheckConstraint("state IN ('pending', 'active', 'closed')", name="state_known"),
        CheckConstraint("\"start\" IN ('latest', 'earliest')", name="start_known"),
        CheckConstraint(
            "(state = 'closed') = (closed_at IS NOT NULL AND closed_in_plan IS NOT NULL)",
            name="closed_complete",
        ),
        CheckConstraint("state <> 'active' OR activated_at IS NOT NULL", name="active_complete"),
        CheckConstraint("cursor_removed_at IS NULL OR state = 'closed'", name="cursor_after_close"),
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("jsonb_typeof(labels) = 'object'", name="labels_object"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    consumer_id: Mapped[str] = mapped_column(
        ForeignKey(Consumer.id, ondelete="RESTRICT"), index=True
    )
    view_id: Mapped[str] = mapped_column(ForeignKey(ViewRow.id, ondelete="RESTRICT"))
    name: Mapped[str] = mapped_column(Text)
    # The filter as it was written; the view holds its canonical form.
    filter: Mapped[str] = mapped_column(Text, server_default="")
    start: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(Text, server_default=State.PENDING.value)
    labels: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    plan: Mapped[int] = mapped_column(BigInteger)
    closed_in_plan: Mapped[int | None] = mapped_column(BigInteger)
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    activated_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    closed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    cursor_removed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    consumer: Mapped[Consumer] = relationship(lazy="raise")
    view: Mapped[ViewRow] = relationship(lazy="raise")

    @property
    def subscription_name(self) -> str:
        """The name of the Pulsar subscription.

        It begins with the consumer's id, all of one length, so that a broker rule on the prefix
        cannot match another consumer.
        """
        return f"{self.consumer_id}-{self.id}"

    @property
    def grant(self) -> tuple[str, str]:
        """What its consumer may read: the topic of the view, which has to be loaded, and its id."""
        return self.view.topic, self.consumer_id
