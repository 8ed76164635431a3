"""The tables of the audit log; PostgreSQL itself refuses to change or remove what stands there.

Triggers (migration 0008) write an entry for each change of a table that requests or the control
plane change, stamp its time and the database's user, and let an entry be updated once: when it is
sealed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base


class AuditEntry(Base):
    """One change, refused attempt, or repair."""

    __tablename__ = "audit_entries"
    __table_args__ = (
        Index("ix_audit_entries_unsealed", "id", postgresql_where=text("sequence IS NULL")),
        Index("ix_audit_entries_resource", "resource", "resource_id", "id"),
        Index("ix_audit_entries_actor", "actor", "id"),
        Index("ix_audit_entries_recorded_at", "recorded_at", postgresql_using="brin"),
        CheckConstraint("outcome IN ('done', 'failed', 'refused')", name="outcome_known"),
        CheckConstraint("(sequence IS NULL) = (digest IS NULL)", name="sealed_complete"),
        CheckConstraint("sequence >= 1", name="sequence_positive"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    recorded_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    actor: Mapped[str] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text, server_default="")
    token_id: Mapped[str] = mapped_column(Text, server_default="")
    operation: Mapped[str] = mapped_column(Text, server_default="")
    request_id: Mapped[str] = mapped_column(Text, server_default="")
    address: Mapped[str] = mapped_column(Text, server_default="")
    database_user: Mapped[str] = mapped_column(Text, server_default=text("SESSION_USER"))
    action: Mapped[str] = mapped_column(Text)
    resource: Mapped[str] = mapped_column(Text)
    resource_id: Mapped[str] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(Text, server_default="done")
    # Of an update only what differs.
    before: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    after: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    # The place in the chain; NULL until the entry is sealed.
    sequence: Mapped[int | None] = mapped_column(BigInteger, unique=True)
    digest: Mapped[bytes | None] = mapped_column(LargeBinary)


class AuditHead(Base):
    """The end of the chain; one row."""

    __tablename__ = "audit_head"
    __table_args__ = (CheckConstraint("one", name="one_row"),)

    one: Mapped[bool] = mapped_column(Boolean, primary_key=True, server_default=text("true"))
    sequence: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary)


class AuditExport(Base):
    """How far the chain is exported; one row. A copy of what the topic tells."""

    __tablename__ = "audit_export"
    __table_args__ = (CheckConstraint("one", name="one_row"),)

    one: Mapped[bool] = mapped_column(Boolean, primary_key=True, server_default=text("true"))
    sequence: Mapped[int] = mapped_column(BigInteger)
