"""Groups: who reads under a subscription, as was seen last; a subscription may name its group."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the name and create the table; the reconciler fills it."""
    op.add_column("subscriptions", sa.Column("group", sa.Text(), nullable=True))
    op.create_check_constraint(
        op.f("ck_subscriptions_group_form"),
        "subscriptions",
        "\"group\" ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'",
    )
    op.create_table(
        "groups",
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column(
            "members", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "departed", postgresql.JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False
        ),
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("jsonb_typeof(members) = 'array'", name=op.f("ck_groups_members_array")),
        sa.CheckConstraint(
            "jsonb_typeof(departed) = 'array'", name=op.f("ck_groups_departed_array")
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscriptions.id"],
            name=op.f("fk_groups_subscription_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("subscription_id", name=op.f("pk_groups")),
    )


def downgrade() -> None:
    """Drop both."""
    op.drop_table("groups")
    op.drop_constraint(op.f("ck_subscriptions_group_form"), "subscriptions")
    op.drop_column("subscriptions", "group")
