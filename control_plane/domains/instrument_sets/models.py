"""The tables of instrument sets and of their versions. Deleted sets stay, for their history."""

from __future__ import annotations

from datetime import datetime

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
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base

UNIQUE_NAME = "uq_instrument_sets_name_live"


class InstrumentSet(Base):
    """One set; what it holds stands in its newest version."""

    __tablename__ = "instrument_sets"
    __table_args__ = (
        Index(UNIQUE_NAME, "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
        CheckConstraint("id ~ '^i[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name="name_form"),
        CheckConstraint("version >= 1", name="version_positive"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class InstrumentSetVersion(Base):
    """What a set held from one change to the next, and which request made it so; immutable."""

    __tablename__ = "instrument_set_versions"
    __table_args__ = (
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("plan >= 0", name="plan_not_negative"),
    )

    set_id: Mapped[str] = mapped_column(
        ForeignKey(InstrumentSet.id, ondelete="RESTRICT"), primary_key=True
    )
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    description: Mapped[str] = mapped_column(Text, server_default="")
    instruments: Mapped[list[str]] = mapped_column(ARRAY(Text))
    added: Mapped[list[str]] = mapped_column(ARRAY(Text))
    removed: Mapped[list[str]] = mapped_column(ARRAY(Text))
    # The plan from which it holds; the newest one before where no filter names the set.
    plan: Mapped[int] = mapped_column(BigInteger)
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
