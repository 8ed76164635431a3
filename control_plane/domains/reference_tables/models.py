"""The tables of reference tables and of their versions. Deleted ones stay, for their history."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base
from marketdata.reference import TableRef, TableSpec

UNIQUE_NAME = "uq_reference_tables_name_live"


class ReferenceTableRow(Base):
    """One table: what it declares never changes; what it holds stands in its newest version."""

    __tablename__ = "reference_tables"
    __table_args__ = (
        Index(UNIQUE_NAME, "name", unique=True, postgresql_where=text("deleted_at IS NULL")),
        CheckConstraint("id ~ '^r[0-9a-f]{16}$'", name="id_form"),
        CheckConstraint("name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name="name_form"),
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("jsonb_typeof(columns) = 'array'", name="columns_array"),
        CheckConstraint("cardinality(key) >= 1", name="key_not_empty"),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, server_default="")
    # Pairs of name and type: JSONB keeps no order of members.
    columns: Mapped[list[list[Any]]] = mapped_column(JSONB)
    key: Mapped[list[str]] = mapped_column(ARRAY(Text))
    valid_from: Mapped[str | None] = mapped_column(Text)
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    @property
    def spec(self) -> TableSpec:
        """What the table declares."""
        columns = {str(name): str(given) for name, given in self.columns}
        return TableSpec(columns, tuple(self.key), self.valid_from)


class ReferenceTableVersion(Base):
    """What a table held from one change to the next, and which request made it so."""

    __tablename__ = "reference_table_versions"
    __table_args__ = (
        CheckConstraint("version >= 1", name="version_positive"),
        CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name="digest_form"),
        CheckConstraint("rows >= 0 AND size_bytes > 0 AND pieces >= 1", name="size_possible"),
        CheckConstraint("plan >= 0", name="plan_not_negative"),
        CheckConstraint("published_at IS NULL OR content IS NOT NULL", name="published_content"),
        Index(
            "ix_reference_table_versions_kept",
            "digest",
            postgresql_where=text("content IS NOT NULL"),
        ),
    )

    table_id: Mapped[str] = mapped_column(
        ForeignKey(ReferenceTableRow.id, ondelete="RESTRICT"), primary_key=True
    )
    version: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(Text)
    rows: Mapped[int] = mapped_column(Integer)
    size_bytes: Mapped[int] = mapped_column(Integer)
    pieces: Mapped[int] = mapped_column(Integer)
    # Gone once the version is neither the newest nor on the topic.
    content: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    # Since when its content stands on the topic of reference tables; NULL while it does not.
    published_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # The plan from which it holds; the newest one before where no transformation names the table.
    plan: Mapped[int] = mapped_column(BigInteger)
    correlation_id: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )

    @property
    def ref(self) -> TableRef:
        """How a plan names it."""
        return TableRef(self.version, self.digest, self.pieces)
