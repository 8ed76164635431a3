"""Subscriptions that begin at a place on their topic."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

START_KNOWN = "ck_subscriptions_start_known"
START_PLACE_COMPLETE = "ck_subscriptions_start_place_complete"


def upgrade() -> None:
    """Add the place, and what starts may be."""
    op.add_column("subscriptions", sa.Column("start_place", postgresql.JSONB()))
    op.drop_constraint(op.f(START_KNOWN), "subscriptions", type_="check")
    for name, condition in (
        (START_KNOWN, "\"start\" IN ('latest', 'earliest', 'place')"),
        (START_PLACE_COMPLETE, "(\"start\" = 'place') = (start_place IS NOT NULL)"),
    ):
        op.create_check_constraint(op.f(name), "subscriptions", condition)


def downgrade() -> None:
    """Drop it; who has not begun yet begins with the oldest message."""
    op.drop_constraint(op.f(START_PLACE_COMPLETE), "subscriptions", type_="check")
    op.drop_constraint(op.f(START_KNOWN), "subscriptions", type_="check")
    op.execute("UPDATE subscriptions SET \"start\" = 'earliest' WHERE \"start\" = 'place'")
    op.create_check_constraint(
        op.f(START_KNOWN), "subscriptions", "\"start\" IN ('latest', 'earliest')"
    )
    op.drop_column("subscriptions", "start_place")
