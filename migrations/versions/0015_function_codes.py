"""The code that each function was deployed with last, to make a deleted one again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; the reconciler fills it."""
    op.create_table(
        "function_codes",
        sa.Column("function", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column(
            "seen_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("function", name=op.f("pk_function_codes")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("function_codes")
