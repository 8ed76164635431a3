"""Whether a consumer is suspended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nobody is suspended."""
    op.add_column(
        "consumers",
        sa.Column("suspended", sa.Boolean(), server_default=sa.text("false"), nullable=False),
    )


def downgrade() -> None:
    """Drop the column. Who is suspended receives nothing still, until its entitlements change."""
    op.drop_column("consumers", "suspended")
