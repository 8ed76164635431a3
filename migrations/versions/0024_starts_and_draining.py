"""Subscriptions that begin at a place on their topic, or are drained before they are closed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

TABLE = "subscriptions"
UNIQUE_NAME = "uq_subscriptions_consumer_name_live"
BEFORE = {
    "start_known": "\"start\" IN ('latest', 'earliest')",
    "state_known": "state IN ('pending', 'active', 'paused', 'closed')",
    "closed_complete": (
        "(state = 'closed') = (closed_at IS NOT NULL AND closed_in_plan IS NOT NULL)"
    ),
    "active_complete": "state <> 'active' OR activated_at IS NOT NULL",
    "active_not_paused": "state <> 'active' OR paused_at IS NULL",
}
AFTER = {
    "start_known": "\"start\" IN ('latest', 'earliest', 'place')",
    "state_known": "state IN ('pending', 'active', 'paused', 'draining', 'closed')",
    "closed_complete": "(state = 'closed') = (closed_at IS NOT NULL)",
    "active_complete": "state NOT IN ('active', 'draining') OR activated_at IS NOT NULL",
    "active_not_paused": "state NOT IN ('active', 'draining') OR paused_at IS NULL",
    "start_place_complete": "(\"start\" = 'place') = (start_place IS NOT NULL)",
    "ended_complete": "(state IN ('draining', 'closed')) = (closed_in_plan IS NOT NULL)",
}


def upgrade() -> None:
    """Add the place and the state; who is drained leaves its name to others."""
    op.add_column(TABLE, sa.Column("start_place", postgresql.JSONB()))
    _drop(BEFORE)
    _create(AFTER, unique_among="state NOT IN ('draining', 'closed')")


def downgrade() -> None:
    """Drop both: who is drained is closed, and who has not begun begins with the oldest message."""
    _drop(AFTER)
    # Their moves are open still: those take the Pulsar subscriptions away.
    op.execute(
        "UPDATE subscriptions SET state = 'closed', closed_at = clock_timestamp()"
        " WHERE state = 'draining'"
    )
    op.execute("UPDATE subscriptions SET \"start\" = 'earliest' WHERE \"start\" = 'place'")
    _create(BEFORE, unique_among="state <> 'closed'")
    op.drop_column(TABLE, "start_place")


def _drop(constraints: Collection[str]) -> None:
    for name in constraints:
        op.drop_constraint(op.f(f"ck_subscriptions_{name}"), TABLE, type_="check")
    op.drop_index(UNIQUE_NAME, table_name=TABLE)


def _create(constraints: Mapping[str, str], *, unique_among: str) -> None:
    for name, condition in constraints.items():
        op.create_check_constraint(op.f(f"ck_subscriptions_{name}"), TABLE, condition)
    op.create_index(
        UNIQUE_NAME,
        TABLE,
        ["consumer_id", "name"],
        unique=True,
        postgresql_where=sa.text(unique_among),
    )
