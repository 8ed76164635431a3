"""The index of subscriptions in the order of their names."""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it."""
    op.create_index("ix_subscriptions_name", "subscriptions", ["name", "id"])


def downgrade() -> None:
    """Have what was there before."""
    op.drop_index("ix_subscriptions_name", table_name="subscriptions")
