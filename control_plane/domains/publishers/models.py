"""The table of publishers. Deleted ones stay, for the history."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Boolean, CheckConstraint, DateTime, Index, Integer, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base

UNIQUE_NAME = "uq_publishers_name_live"


class Publisher(Base):
    """One registered publisher; its name is the subject of its tokens."""

    __tablename__ = "publishers"
    __table_args__ = (
        Index(UNIQUE_NAME, "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
        CheckConstraint("id ~ '^p[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name="name_form"),
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("jsonb_typeof(labels) = 'object'", name="labels_object"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    owner: Mapped[str] = mapped_column(Text, server_default="")
    contact: Mapped[str] = mapped_column(Text, server_default="")
    region: Mapped[str] = mapped_column(Text, server_default="")
    labels: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=text("'{}'::jsonb"))
    # What it is registered to publish; null for no bound. A source is of one publisher.
    sources: Mapped[list[str]] = mapped_column(ARRAY(Text))
    venues: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    kinds: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    suspended: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
