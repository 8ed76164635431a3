"""Moves between lanes: a view that was left goes on until its lane has come so far."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; no view that was left before goes on."""
    op.add_column(
        "subscription_moves",
        sa.Column("goes_on", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )
    op.create_index(
        "ix_subscription_moves_going",
        "subscription_moves",
        ["view_id"],
        postgresql_where=sa.text("goes_on"),
    )


def downgrade() -> None:
    """Drop the column; the next plan is without the views that went on by it."""
    op.drop_index("ix_subscription_moves_going", table_name="subscription_moves")
    op.drop_column("subscription_moves", "goes_on")
