"""Indexes in the order of lists, so that a page costs the same however many rows there are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0016"
branch_labels = None
depends_on = None

_PLACE = ["created_at", "id"]


def upgrade() -> None:
    """Create them; that of a consumer's subscriptions takes the place of a narrower one."""
    op.create_index(
        "ix_subscriptions_created_live",
        "subscriptions",
        _PLACE,
        postgresql_where=sa.text("state <> 'closed'"),
    )
    op.create_index("ix_subscriptions_state", "subscriptions", ["state", *_PLACE])
    op.create_index("ix_subscriptions_consumer", "subscriptions", ["consumer_id", *_PLACE])
    op.drop_index("ix_subscriptions_consumer_id", table_name="subscriptions")
    op.create_index("ix_consumers_name", "consumers", ["name"])
    op.create_index(
        "ix_consumers_created", "consumers", _PLACE, postgresql_where=sa.text("deleted_at IS NULL")
    )


def downgrade() -> None:
    """Have what was there before."""
    op.drop_index("ix_consumers_created", table_name="consumers")
    op.drop_index("ix_consumers_name", table_name="consumers")
    op.create_index("ix_subscriptions_consumer_id", "subscriptions", ["consumer_id"])
    op.drop_index("ix_subscriptions_consumer", table_name="subscriptions")
    op.drop_index("ix_subscriptions_state", table_name="subscriptions")
    op.drop_index("ix_subscriptions_created_live", table_name="subscriptions")
