"""From when a subscription is said to lag or to have stalled may be its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column: as the service has it, for all that there are."""
    op.add_column(
        "subscriptions",
        sa.Column(
            "thresholds",
            postgresql.JSONB(),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
    )
    op.create_check_constraint(
        op.f("ck_subscriptions_thresholds_object"),
        "subscriptions",
        "jsonb_typeof(thresholds) = 'object'",
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("subscriptions", "thresholds")
