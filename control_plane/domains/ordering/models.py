"""The tables of ordering: findings as they came, gaps as they stand, counts, positions, poison.

`ordering_findings` is the history and makes storing idempotent: a finding's id is its key.
`ordering_gaps` is derived from the findings of a gap. `ordering_positions` says up to where each
partition of `control/ordering` is stored; it changes in the transaction that stores.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    Text,
    TypeDecorator,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from control_plane.database import Base

TYPES = (
    "gap_opened",
    "gap_closed",
    "reversal",
    "repeat",
    "late_event",
    "source_reset",
    "epoch_changed",
)
CLOSED_BY = ("late_arrival", "fill", "reset")


class GapState(StrEnum):
    """open → closed."""

    OPEN = "open"
    CLOSED = "closed"


class Unsigned64(TypeDecorator[int]):
    """An integer of 0 … 2**64-1, the range of a source's numbers; bigint ends at half of it."""

    impl = Numeric(20, 0)
    cache_ok = True

    def process_result_value(self, value: Decimal | None, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's signature
        """PostgreSQL's numeric as an int."""
        return None if value is None else int(value)


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


class Finding(Base):
    """One finding as the sequencer published it; never changed.

    Where one sums up many, instrument, source and gap_id are empty.
    """

    __tablename__ = "ordering_findings"
    __table_args__ = (
        CheckConstraint("id <> ''", name="id_given"),
        CheckConstraint(_one_of("type", TYPES), name="type_known"),
        CheckConstraint(_one_of("closed_by", ("", *CLOSED_BY)), name="closed_by_known"),
        CheckConstraint("first <= last", name="range_rises"),
        CheckConstraint("gap_id = '' OR type IN ('gap_opened', 'gap_closed')", name="gap_named"),
        CheckConstraint(
            "closed_by = '' OR (type = 'gap_closed' AND gap_id <> '')", name="closing_complete"
        ),
        Index("ix_ordering_findings_detected", "detected_at", "id"),
        Index("ix_ordering_findings_type", "type", "detected_at", "id"),
        Index("ix_ordering_findings_source", "source", "detected_at", "id"),
        Index("ix_ordering_findings_instrument", "instrument", "detected_at", "id"),
        Index("ix_ordering_findings_gap", "gap_id", postgresql_where=text("gap_id <> ''")),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    type: Mapped[str] = mapped_column(Text)
    partition: Mapped[int] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(BigInteger)
    instrument: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    first: Mapped[int] = mapped_column(Unsigned64)
    last: Mapped[int] = mapped_column(Unsigned64)
    events: Mapped[int] = mapped_column(Unsigned64)
    sequence: Mapped[int] = mapped_column(Unsigned64)
    epoch: Mapped[int] = mapped_column(BigInteger)
    ts_event: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    detected_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    gap_id: Mapped[str] = mapped_column(Text)
    closed_by: Mapped[str] = mapped_column(Text)
    remaining: Mapped[int] = mapped_column(Unsigned64)
    action: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)


class Gap(Base):
    """One hole in a source's numbers, as its findings leave it. Its id is that of its opening."""

    __tablename__ = "ordering_gaps"
    __table_args__ = (
        CheckConstraint("id <> ''", name="id_given"),
        CheckConstraint("state IN ('open', 'closed')", name="state_known"),
        CheckConstraint("first <= last", name="range_rises"),
        CheckConstraint("missing >= 1 AND remaining <= missing", name="remaining_of_missing"),
        CheckConstraint("state = 'closed' OR remaining >= 1", name="open_misses_some"),
        CheckConstraint(
            "(state = 'closed') = (closed_at IS NOT NULL AND closed_by IS NOT NULL)",
            name="closed_complete",
        ),
        CheckConstraint(_one_of("closed_by", CLOSED_BY), name="closed_by_known"),
        CheckConstraint(
            "(resend_requests > 0) = (resend_requested_at IS NOT NULL)", name="resend_complete"
        ),
        Index("ix_ordering_gaps_opened", "opened_at", "id"),
        Index("ix_ordering_gaps_source", "source", "opened_at", "id"),
        Index("ix_ordering_gaps_instrument", "instrument", "opened_at", "id"),
        Index("ix_ordering_gaps_open", "opened_at", "id", postgresql_where=text("state = 'open'")),
        Index(
            "ix_ordering_gaps_open_source",
            "source",
            postgresql_include=["remaining"],
            postgresql_where=text("state = 'open'"),
        ),
        Index("ix_ordering_gaps_closed", "closed_at", postgresql_where=text("state = 'closed'")),
    )

    id: Mapped[str] = mapped_column(Text, primary_key=True)
    partition: Mapped[int] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(BigInteger)
    instrument: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(Text)
    first: Mapped[int] = mapped_column(Unsigned64)
    last: Mapped[int] = mapped_column(Unsigned64)
    missing: Mapped[int] = mapped_column(Unsigned64)
    remaining: Mapped[int] = mapped_column(Unsigned64)
    state: Mapped[str] = mapped_column(Text, server_default=GapState.OPEN.value)
    sequence: Mapped[int] = mapped_column(Unsigned64)
    epoch: Mapped[int] = mapped_column(BigInteger)
    ts_event: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    opened_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    closed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    closed_by: Mapped[str | None] = mapped_column(Text)
    # Requests made through the API; the sequencer's own, one a gap, is not counted here.
    resend_requests: Mapped[int] = mapped_column(Integer, server_default="0")
    resend_requested_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class FindingCount(Base):
    """How many findings there ever were; stays when they are deleted.

    `outcome` is what the policy did, for closings how the gap closed (`partial`: it did not yet).
    """

    __tablename__ = "ordering_counts"
    __table_args__ = (CheckConstraint("findings >= 1", name="findings_positive"),)

    source: Mapped[str] = mapped_column(Text, primary_key=True)
    type: Mapped[str] = mapped_column(Text, primary_key=True)
    outcome: Mapped[str] = mapped_column(Text, primary_key=True)
    findings: Mapped[int] = mapped_column(BigInteger)
    # The first sources seen keep their metric labels, whatever comes later.
    first_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )


class StoredPosition(Base):
    """Up to where a partition of `control/ordering` is stored, and counts up to there."""

    __tablename__ = "ordering_positions"

    partition: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    ledger_id: Mapped[int] = mapped_column(BigInteger)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    batch_index: Mapped[int] = mapped_column(Integer)
    published_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    messages: Mapped[int] = mapped_column(BigInteger)
    poison: Mapped[int] = mapped_column(BigInteger)


class Poison(Base):
    """A message, or one finding of a message, that could not be stored, and why.

    `finding` is its index in the message's array, -1 for the message as a whole. The payload is
    cut at 64 KiB; the topic holds all of it at ledger, entry and batch index.
    """

    __tablename__ = "ordering_poison"
    __table_args__: tuple[Any, ...] = (
        Index(
            "uq_ordering_poison_place",
            "partition",
            "ledger_id",
            "entry_id",
            "batch_index",
            "finding",
            unique=True,
        ),
        Index("ix_ordering_poison_seen", "seen_at"),
        CheckConstraint("reason <> ''", name="reason_given"),
        CheckConstraint("octet_length(payload) <= 65536", name="payload_cut"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    partition: Mapped[int] = mapped_column(Integer)
    ledger_id: Mapped[int] = mapped_column(BigInteger)
    entry_id: Mapped[int] = mapped_column(BigInteger)
    batch_index: Mapped[int] = mapped_column(Integer)
    finding: Mapped[int] = mapped_column(Integer)
    reason: Mapped[str] = mapped_column(Text)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    payload_bytes: Mapped[int] = mapped_column(BigInteger)
    seen_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
