"""The table of shared transformations, a row a version. Deleted ones stay, for their numbers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, DateTime, Integer, Text, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base


class SharedTransformation(Base):
    """One version of a named transformation; immutable."""

    __tablename__ = "transformations"
    __table_args__ = (
        UniqueConstraint("name", "version", name="uq_transformations_name_version"),
        CheckConstraint("id ~ '^f[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name="name_form"),
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("jsonb_typeof(transformation) = 'object'", name="transformation_object"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer)
    description: Mapped[str] = mapped_column(Text, server_default="")
    # In its canonical form.
    transformation: Mapped[dict[str, Any]] = mapped_column(JSONB)
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @property
    def reference(self) -> str:
        """How a subscription refers to it."""
        return f"{self.name}@{self.version}"
