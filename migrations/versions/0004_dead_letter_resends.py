"""Resends of dead letters."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "dead_letter_resends",
        sa.Column("letter_id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("position", sa.Text(), nullable=True),
        sa.Column(
            "resent_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "letter_id ~ '^sequencer(:[0-9]+){3,4}$'", name=op.f("ck_dead_letter_resends_id_form")
        ),
        sa.PrimaryKeyConstraint("letter_id", name=op.f("pk_dead_letter_resends")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("dead_letter_resends")
