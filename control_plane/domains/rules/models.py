"""The tables of routing rules, and of what all of them were from one change to the next.

Deleted rules stay, for their history.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Index,
    Integer,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base

UNIQUE_NAME = "uq_rules_name_live"


class RuleRow(Base):
    """One rule; positions of those that are not deleted run from 1 without holes."""

    __tablename__ = "rules"
    __table_args__ = (
        Index(UNIQUE_NAME, "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
        # At the end of a transaction: a change of the order moves many.
        UniqueConstraint(
            "position", name="uq_rules_position", deferrable=True, initially="DEFERRED"
        ),
        CheckConstraint("id ~ '^u[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name="name_form"),
        CheckConstraint("effect IN ('allow', 'deny', 'prioritize')", name="effect_known"),
        CheckConstraint("priority BETWEEN 0 AND 3", name="priority_known"),
        CheckConstraint(
            "(effect = 'prioritize') = (priority IS NOT NULL)", name="priority_complete"
        ),
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("position >= 1", name="position_positive"),
        CheckConstraint("(position IS NULL) = (deleted_at IS NOT NULL)", name="position_live"),
        CheckConstraint("plan >= 0", name="plan_not_negative"),
        CheckConstraint("jsonb_typeof(consumers) = 'object'", name="consumers_object"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, server_default="")
    # The condition as it was written, and its tree; "" and null for every event.
    condition: Mapped[str] = mapped_column(Text, server_default="")
    predicate: Mapped[Any] = mapped_column(JSONB, nullable=False)
    origin_regions: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    origin_regions_except: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    consumers: Mapped[dict[str, Any]] = mapped_column(JSONB)
    effect: Mapped[str] = mapped_column(Text)
    priority: Mapped[int | None] = mapped_column(Integer)
    enabled: Mapped[bool] = mapped_column(Boolean)
    position: Mapped[int | None] = mapped_column(Integer)
    # The plan from which it holds as it is; the newest one before where it made no difference.
    plan: Mapped[int] = mapped_column(BigInteger, server_default="0")
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class RuleListVersion(Base):
    """All rules in their order from one change to the next; immutable."""

    __tablename__ = "rule_list_versions"
    __table_args__ = (
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("plan >= 0", name="plan_not_negative"),
        CheckConstraint("jsonb_typeof(rules) = 'array'", name="rules_array"),
    )

    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    rules: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    # The plan from which they hold so; the newest one before where they made no difference.
    plan: Mapped[int] = mapped_column(BigInteger)
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
