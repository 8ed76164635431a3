"""Ordering: findings, gaps, counts, positions of the follower, poison."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "ordering_counts",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("findings", sa.BigInteger(), nullable=False),
        sa.Column(
            "first_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("findings >= 1", name=op.f("ck_ordering_counts_findings_positive")),
        sa.PrimaryKeyConstraint("source", "type", "outcome", name=op.f("pk_ordering_counts")),
    )
    op.create_table(
        "ordering_findings",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("first", sa.Numeric(20, 0), nullable=False),
        sa.Column("last", sa.Numeric(20, 0), nullable=False),
        sa.Column("events", sa.Numeric(20, 0), nullable=False),
        sa.Column("sequence", sa.Numeric(20, 0), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("ts_event", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("gap_id", sa.Text(), nullable=False),
        sa.Column("closed_by", sa.Text(), nullable=False),
        sa.Column("remaining", sa.Numeric(20, 0), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "closed_by = '' OR (type = 'gap_closed' AND gap_id <> '')",
            name=op.f("ck_ordering_findings_closing_complete"),
        ),
        sa.CheckConstraint(
            "gap_id = '' OR type IN ('gap_opened', 'gap_closed')",
            name=op.f("ck_ordering_findings_gap_named"),
        ),
        sa.CheckConstraint(
            "closed_by IN ('', 'late_arrival', 'fill', 'reset')",
            name=op.f("ck_ordering_findings_closed_by_known"),
        ),
        sa.CheckConstraint("id <> ''", name=op.f("ck_ordering_findings_id_given")),
        sa.CheckConstraint(
            "type IN ('gap_opened', 'gap_closed', 'reversal', 'repeat', 'late_event',"
            " 'source_reset', 'epoch_changed')",
            name=op.f("ck_ordering_findings_type_known"),
        ),
        sa.CheckConstraint("first <= last", name=op.f("ck_ordering_findings_range_rises")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ordering_findings")),
    )
    op.create_index(
        "ix_ordering_findings_detected", "ordering_findings", ["detected_at", "id"], unique=False
    )
    op.create_index(
        "ix_ordering_findings_gap",
        "ordering_findings",
        ["gap_id"],
        unique=False,
        postgresql_where=sa.text("gap_id <> ''"),
    )
    op.create_index(
        "ix_ordering_findings_instrument",
        "ordering_findings",
        ["instrument", "detected_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_ordering_findings_source",
        "ordering_findings",
        ["source", "detected_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_ordering_findings_type",
        "ordering_findings",
        ["type", "detected_at", "id"],
        unique=False,
    )
    op.create_table(
        "ordering_gaps",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("instrument", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("first", sa.Numeric(20, 0), nullable=False),
        sa.Column("last", sa.Numeric(20, 0), nullable=False),
        sa.Column("missing", sa.Numeric(20, 0), nullable=False),
        sa.Column("remaining", sa.Numeric(20, 0), nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("sequence", sa.Numeric(20, 0), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("ts_event", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_by", sa.Text(), nullable=True),
        sa.Column("resend_requests", sa.Integer(), server_default="0", nullable=False),
        sa.Column("resend_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'closed') = (closed_at IS NOT NULL AND closed_by IS NOT NULL)",
            name=op.f("ck_ordering_gaps_closed_complete"),
        ),
        sa.CheckConstraint(
            "closed_by IN ('late_arrival', 'fill', 'reset')",
            name=op.f("ck_ordering_gaps_closed_by_known"),
        ),
        sa.CheckConstraint("id <> ''", name=op.f("ck_ordering_gaps_id_given")),
        sa.CheckConstraint(
            "state = 'closed' OR remaining >= 1", name=op.f("ck_ordering_gaps_open_misses_some")
        ),
        sa.CheckConstraint(
            "state IN ('open', 'closed')", name=op.f("ck_ordering_gaps_state_known")
        ),
        sa.CheckConstraint(
            "(resend_requests > 0) = (resend_requested_at IS NOT NULL)",
            name=op.f("ck_ordering_gaps_resend_complete"),
        ),
        sa.CheckConstraint("first <= last", name=op.f("ck_ordering_gaps_range_rises")),
        sa.CheckConstraint(
            "missing >= 1 AND remaining <= missing",
            name=op.f("ck_ordering_gaps_remaining_of_missing"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ordering_gaps")),
    )
    op.create_index(
        "ix_ordering_gaps_closed",
        "ordering_gaps",
        ["closed_at"],
        unique=False,
        postgresql_where=sa.text("state = 'closed'"),
    )
    op.create_index(
        "ix_ordering_gaps_instrument",
        "ordering_gaps",
        ["instrument", "opened_at", "id"],
        unique=False,
    )
    op.create_index(
        "ix_ordering_gaps_open",
        "ordering_gaps",
        ["opened_at", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index(
        "ix_ordering_gaps_open_source",
        "ordering_gaps",
        ["source"],
        unique=False,
        postgresql_include=["remaining"],
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_index("ix_ordering_gaps_opened", "ordering_gaps", ["opened_at", "id"], unique=False)
    op.create_index(
        "ix_ordering_gaps_source", "ordering_gaps", ["source", "opened_at", "id"], unique=False
    )
    op.create_table(
        "ordering_poison",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("ledger_id", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.Column("batch_index", sa.Integer(), nullable=False),
        sa.Column("finding", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("payload_bytes", sa.BigInteger(), nullable=False),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("reason <> ''", name=op.f("ck_ordering_poison_reason_given")),
        sa.CheckConstraint(
            "octet_length(payload) <= 65536", name=op.f("ck_ordering_poison_payload_cut")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ordering_poison")),
    )
    op.create_index("ix_ordering_poison_seen", "ordering_poison", ["seen_at"], unique=False)
    op.create_index(
        "uq_ordering_poison_place",
        "ordering_poison",
        ["partition", "ledger_id", "entry_id", "batch_index", "finding"],
        unique=True,
    )
    op.create_table(
        "ordering_positions",
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ledger_id", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.Column("batch_index", sa.Integer(), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("poison", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition", name=op.f("pk_ordering_positions")),
    )


def downgrade() -> None:
    """Drop the tables with all that is in them; the topic still holds what retention left there."""
    op.drop_table("ordering_positions")
    op.drop_index("uq_ordering_poison_place", table_name="ordering_poison")
    op.drop_index("ix_ordering_poison_seen", table_name="ordering_poison")
    op.drop_table("ordering_poison")
    op.drop_index("ix_ordering_gaps_source", table_name="ordering_gaps")
    op.drop_index("ix_ordering_gaps_opened", table_name="ordering_gaps")
    op.drop_index(
        "ix_ordering_gaps_open_source",
        table_name="ordering_gaps",
        postgresql_include=["remaining"],
        postgresql_where=sa.text("state = 'open'"),
    )
    op.drop_index(
        "ix_ordering_gaps_open",
        table_name="ordering_gaps",
        postgresql_where=sa.text("state = 'open'"),
    )
    op.drop_index("ix_ordering_gaps_instrument", table_name="ordering_gaps")
    op.drop_index(
        "ix_ordering_gaps_closed",
        table_name="ordering_gaps",
        postgresql_where=sa.text("state = 'closed'"),
    )
    op.drop_table("ordering_gaps")
    op.drop_index("ix_ordering_findings_type", table_name="ordering_findings")
    op.drop_index("ix_ordering_findings_source", table_name="ordering_findings")
    op.drop_index("ix_ordering_findings_instrument", table_name="ordering_findings")
    op.drop_index(
        "ix_ordering_findings_gap",
        table_name="ordering_findings",
        postgresql_where=sa.text("gap_id <> ''"),
    )
    op.drop_index("ix_ordering_findings_detected", table_name="ordering_findings")
    op.drop_table("ordering_findings")
    op.drop_table("ordering_counts")
