"""Subscriptions that are conflated because of their backlog; topics whose unread rest is told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

LIMITED = "on_backlog ->> 'policy' <> 'hold'"


def upgrade() -> None:
    """Add the columns: nobody is conflated because of its backlog yet."""
    op.add_column("subscriptions", sa.Column("conflated_since", sa.DateTime(timezone=True)))
    op.add_column("subscriptions", sa.Column("conflate_ms", sa.Integer()))
    op.create_check_constraint(
        op.f("ck_subscriptions_conflated_complete"),
        "subscriptions",
        "(conflated_since IS NULL) = (conflate_ms IS NULL)",
    )
    _limited(f"({LIMITED} OR conflated_since IS NOT NULL)")
    op.add_column(
        "subscription_moves",
        sa.Column("tells_unread", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_index(
        "ix_subscription_moves_untold",
        "subscription_moves",
        ["drain_until"],
        postgresql_where=sa.text("tells_unread AND ended_at IS NULL"),
    )


def downgrade() -> None:
    """Drop them; who would be conflated holds what waits.

    Who is, stays so until it or what it may receive changes.
    """
    op.drop_index("ix_subscription_moves_untold", table_name="subscription_moves")
    op.drop_column("subscription_moves", "tells_unread")
    _limited(LIMITED)
    op.drop_constraint(op.f("ck_subscriptions_conflated_complete"), "subscriptions", type_="check")
    op.drop_column("subscriptions", "conflate_ms")
    op.drop_column("subscriptions", "conflated_since")
    op.execute(
        "UPDATE subscriptions SET on_backlog = CASE on_backlog ->> 'policy' WHEN 'conflate'"
        """ THEN '{"policy": "hold"}' ELSE on_backlog - 'every_ms' END WHERE on_backlog"""
        " ?| '{every_ms}'"
    )


def _limited(condition: str) -> None:
    op.drop_index("ix_subscriptions_limited", table_name="subscriptions")
    op.create_index(
        "ix_subscriptions_limited",
        "subscriptions",
        ["view_id", "id"],
        postgresql_where=sa.text(condition),
    )
