"""How far the audit log is exported."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the row: nothing is exported yet."""
    op.create_table(
        "audit_export",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("one", name=op.f("ck_audit_export_one_row")),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_audit_export")),
    )
    op.execute("INSERT INTO audit_export (sequence) VALUES (0)")


def downgrade() -> None:
    """Drop it; the topic tells a later upgrade what it holds."""
    op.drop_table("audit_export")
