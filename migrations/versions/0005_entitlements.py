"""Entitlements of consumers, what subscriptions asked for, and their moves between views.

The consumers that there are may receive everything, as before; their subscriptions asked for the
views they have.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table."""
    op.add_column(
        "consumers",
        sa.Column(
            "entitlements",
            postgresql.JSONB(),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.alter_column("consumers", "entitlements", server_default=None)
    op.create_check_constraint(
        op.f("ck_consumers_entitlements_object"),
        "consumers",
        "jsonb_typeof(entitlements) = 'object'",
    )
    op.add_column("subscriptions", sa.Column("spec", postgresql.JSONB(), nullable=True))
    op.execute("UPDATE subscriptions SET spec = views.spec FROM views WHERE views.id = view_id")
    op.alter_column("subscriptions", "spec", nullable=False)
    op.create_check_constraint(
        op.f("ck_subscriptions_spec_object"), "subscriptions", "jsonb_typeof(spec) = 'object'"
    )
    op.create_table(
        "subscription_moves",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column("view_id", sa.Text(), nullable=False),
        sa.Column("subscription_name", sa.Text(), nullable=False),
        sa.Column("plan", sa.BigInteger(), nullable=False),
        sa.Column("correlation_id", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "moved_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("drain_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("plan >= 1", name=op.f("ck_subscription_moves_plan_positive")),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscriptions.id"],
            name=op.f("fk_subscription_moves_subscription_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["view_id"],
            ["views.id"],
            name=op.f("fk_subscription_moves_view_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription_moves")),
    )
    op.create_index(
        "uq_subscription_moves_open",
        "subscription_moves",
        ["subscription_id", "view_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "ix_subscription_moves_view",
        "subscription_moves",
        ["view_id"],
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def downgrade() -> None:
    """Drop the table and the columns; what is delivered stays as the entitlements made it."""
    op.drop_table("subscription_moves")
    op.drop_column("subscriptions", "spec")
    op.drop_column("consumers", "entitlements")
