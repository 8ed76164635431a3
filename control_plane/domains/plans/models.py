"""The tables of views and plans; a plan without `published_at` is the outbox's work."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Index,
    LargeBinary,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base


class ViewRow(Base):
    """One distinct view; the row stays when its last subscription closes."""

    __tablename__ = "views"
    __table_args__ = (
        CheckConstraint("id ~ '^[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("jsonb_typeof(spec) = 'object'", name="spec_object"),
        CheckConstraint("retired_in_plan >= 1", name="retired_in_plan_positive"),
        Index(
            "ix_views_retired_in_plan",
            "retired_in_plan",
            postgresql_where=text("retired_in_plan IS NOT NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    topic: Mapped[str] = mapped_column(Text, unique=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    # The first plan without the view: its topic can go once every distributor runs that plan.
    # NULL while the view is live and again once the topic is gone.
    retired_in_plan: Mapped[int | None] = mapped_column(BigInteger)


class PlanRow(Base):
    """One plan, immutable but for its publication and what it was made for."""

    __tablename__ = "plans"
    __table_args__ = (
        CheckConstraint("number >= 1", name="number_positive"),
        CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name="digest_form"),
        CheckConstraint("view_count >= 0", name="view_count_not_negative"),
        CheckConstraint("rolled_back_to < number", name="rolled_back_to_earlier"),
        Index("ix_plans_unpublished", "number", postgresql_where=text("published_at IS NULL")),
    )

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(Text)
    document: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    view_count: Mapped[int] = mapped_column(BigInteger)
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    published_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # When every distributor was first seen to run it, or a later one.
    applied_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # The earlier plan whose definitions it puts back; NULL for any other change.
    rolled_back_to: Mapped[int | None] = mapped_column(BigInteger)
