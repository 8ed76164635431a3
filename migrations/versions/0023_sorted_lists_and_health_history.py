"""The index of subscriptions in the order of their names; how subscriptions were read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both; the reconciler fills the table."""
    op.create_index("ix_subscriptions_name", "subscriptions", ["name", "id"])
    op.create_table(
        "subscription_health",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.Column("backlog_messages", sa.BigInteger(), nullable=False),
        sa.Column("backlog_bytes", sa.BigInteger(), nullable=False),
        sa.Column("backlog_age_seconds", sa.Double(), nullable=True),
        sa.Column("rate", sa.Double(), nullable=False),
        sa.Column("redelivery_rate", sa.Double(), nullable=False),
        sa.Column("last_acknowledged_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('healthy', 'lagging', 'stalled', 'gone')",
            name=op.f("ck_subscription_health_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscriptions.id"],
            name=op.f("fk_subscription_health_subscription_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription_health")),
    )
    op.create_index("ix_subscription_health_of", "subscription_health", ["subscription_id", "at"])


def downgrade() -> None:
    """Drop both."""
    op.drop_table("subscription_health")
    op.drop_index("ix_subscriptions_name", table_name="subscriptions")
