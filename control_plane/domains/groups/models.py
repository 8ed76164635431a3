"""The table of groups: who read under a subscription when the broker was last asked."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, ForeignKey, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base
from control_plane.domains.subscriptions.models import Subscription


class GroupRow(Base):
    """The members of a subscription; no row before the first one was seen."""

    __tablename__ = "groups"
    __table_args__ = (
        CheckConstraint("jsonb_typeof(members) = 'array'", name="members_array"),
        CheckConstraint("jsonb_typeof(departed) = 'array'", name="departed_array"),
    )

    subscription_id: Mapped[str] = mapped_column(
        ForeignKey(Subscription.id, ondelete="RESTRICT"), primary_key=True
    )
    # As `membership.Member` and `membership.Departed`.
    members: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'::jsonb"))
    departed: Mapped[list[dict[str, Any]]] = mapped_column(
        JSONB, server_default=text("'[]'::jsonb")
    )
    changed_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
