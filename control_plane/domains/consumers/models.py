"""The table of consumers. Deleted ones stay, for the history of their subscriptions."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Boolean, CheckConstraint, DateTime, Index, Integer, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base
from marketdata.entitlements import NOTHING, Entitlements
from marketdata.routing_rules import Party

UNIQUE_NAME = "uq_consumers_name_live"


class Consumer(Base):
    """One registered consumer."""

    __tablename__ = "consumers"
    __table_args__ = (
        Index(UNIQUE_NAME, "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
        # Of deleted ones, too: their subscriptions are listed by it.
        Index("ix_consumers_name", "name"),
        # Both for a label with a value and for one with any.
        Index("ix_consumers_labels", "labels", postgresql_using="gin"),
        Index(
            "ix_consumers_created",
            "created_at",
            "id",
            postgresql_where=text("deleted_at IS NULL"),
        ),
        CheckConstraint("id ~ '^c[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name="name_form"),
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("jsonb_typeof(labels) = 'object'", name="labels_object"),
        CheckConstraint("jsonb_typeof(entitlements) = 'object'", name="entitlements_object"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(Text, server_default="")
    contact: Mapped[str] = mapped_column(Text, server_default="")
    region: Mapped[str] = mapped_column(Text, server_default="")
    workflow: Mapped[str] = mapped_column(Text, server_default="")
    labels: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    # No default: who enters a consumer says what it may receive.
    entitlements: Mapped[dict[str, Any]] = mapped_column(JSONB)
    suspended: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @property
    def allowed(self) -> Entitlements:
        """What it may receive now: nothing while it is suspended."""
        return NOTHING if self.suspended else msgspec.convert(self.entitlements, Entitlements)

    @property
    def party(self) -> Party:
        """What routing rules know of it."""
        return Party(self.name, self.region, self.workflow, self.labels)
