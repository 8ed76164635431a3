"""Events, the order in which they are told, and when a plan was applied."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables; there are no events of what was before."""
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("consumer_id", sa.Text(), nullable=True),
        sa.Column("subscription_id", sa.Text(), nullable=True),
        sa.Column("data", postgresql.JSONB(), nullable=False),
        sa.Column("correlation_id", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("number >= 1", name=op.f("ck_events_number_positive")),
        sa.CheckConstraint("jsonb_typeof(data) = 'object'", name=op.f("ck_events_data_object")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("uq_events_number", "events", ["number"], unique=True)
    op.create_index("ix_events_consumer", "events", ["consumer_id", "number"])
    op.create_index(
        "ix_events_unnumbered", "events", ["id"], postgresql_where=sa.text("number IS NULL")
    )
    op.create_table(
        "event_log",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("newest", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("forgotten", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_event_log_one_row")),
        sa.CheckConstraint(
            "forgotten >= 0 AND forgotten <= newest",
            name=op.f("ck_event_log_forgotten_are_numbered"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event_log")),
    )
    op.execute("INSERT INTO event_log (id) VALUES (1)")
    op.add_column("plans", sa.Column("applied_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Drop them; a reader that goes on after an upgrade is told that events are lost."""
    op.drop_column("plans", "applied_at")
    op.drop_table("event_log")
    op.drop_table("events")
