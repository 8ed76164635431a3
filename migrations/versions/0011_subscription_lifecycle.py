"""The lifecycle of subscriptions: change in place, pause, backlog, and history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ACTING = (
    "coalesce(coalesce(nullif(current_setting('dds.acting', true), ''), '{}')::jsonb"
    " ->> 'actor', 'database')"
)

STATES = {
    True: "state IN ('pending', 'active', 'paused', 'closed')",
    False: "state IN ('pending', 'active', 'closed')",
}
STATE_KNOWN = "ck_subscriptions_state_known"


def upgrade() -> None:
    """Add the columns and the table; who has come from another view begins with its plan."""
    for table in ("subscriptions", "subscription_moves"):
        op.add_column(
            table, sa.Column("from_plan", sa.BigInteger(), server_default="0", nullable=False)
        )
    op.execute(
        "UPDATE subscriptions SET from_plan = plan WHERE EXISTS"
        " (SELECT FROM subscription_moves WHERE subscription_id = subscriptions.id)"
    )
    op.add_column(
        "subscription_moves",
        sa.Column("allowed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    for name in ("paused_at", "resumed_at"):
        op.add_column("subscriptions", sa.Column(name, sa.DateTime(timezone=True)))
    op.add_column(
        "subscriptions",
        sa.Column("blocked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.add_column(
        "subscriptions",
        sa.Column(
            "on_backlog",
            postgresql.JSONB(),
            server_default=sa.text("""'{"policy": "hold"}'::jsonb"""),
            nullable=False,
        ),
    )
    op.create_index(
        "ix_subscriptions_limited",
        "subscriptions",
        ["view_id", "id"],
        postgresql_where=sa.text("on_backlog ->> 'policy' <> 'hold'"),
    )
    op.drop_constraint(op.f(STATE_KNOWN), "subscriptions", type_="check")
    for name, condition in (
        (op.f(STATE_KNOWN), STATES[True]),
        (
            op.f("ck_subscriptions_active_not_paused"),
            "state <> 'active' OR paused_at IS NULL",
        ),
        (
            op.f("ck_subscriptions_paused_complete"),
            "state <> 'paused' OR paused_at IS NOT NULL",
        ),
    ):
        op.create_check_constraint(name, "subscriptions", condition)
    op.create_index(
        "ix_subscriptions_paused",
        "subscriptions",
        ["id"],
        postgresql_where=sa.text("paused_at IS NOT NULL OR blocked"),
    )
    op.create_table(
        "subscription_history",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("subscription_id", sa.Text(), nullable=False),
        sa.Column(
            "at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("plan", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), server_default=sa.text(ACTING), nullable=False),
        sa.Column("correlation_id", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "data", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscriptions.id"],
            name=op.f("fk_subscription_history_subscription_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription_history")),
    )
    op.create_index("ix_subscription_history_of", "subscription_history", ["subscription_id", "id"])


def downgrade() -> None:
    """Drop them; the history is lost, and who was paused reads on.

    A block that the broker holds for it stays there: resume before.
    """
    op.drop_table("subscription_history")
    op.drop_index("ix_subscriptions_paused", table_name="subscriptions")
    op.execute("UPDATE subscriptions SET state = 'active', paused_at = NULL WHERE state = 'paused'")
    for name in ("active_not_paused", "paused_complete"):
        op.drop_constraint(op.f(f"ck_subscriptions_{name}"), "subscriptions", type_="check")
    op.drop_constraint(op.f(STATE_KNOWN), "subscriptions", type_="check")
    op.create_check_constraint(op.f(STATE_KNOWN), "subscriptions", STATES[False])
    op.drop_index("ix_subscriptions_limited", table_name="subscriptions")
    op.drop_column("subscriptions", "on_backlog")
    op.drop_column("subscriptions", "blocked")
    op.drop_column("subscriptions", "resumed_at")
    op.drop_column("subscriptions", "paused_at")
    op.drop_column("subscription_moves", "allowed")
    for table in ("subscription_moves", "subscriptions"):
        op.drop_column(table, "from_plan")
