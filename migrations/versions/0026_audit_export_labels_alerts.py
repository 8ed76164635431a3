"""How far the audit log is exported; the indexes of labels; alerts that stand."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

LABELLED = ("subscriptions", "consumers")


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
    op.create_table(
        "alerts",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column(
            "since",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("kind", "about", name=op.f("pk_alerts")),
    )
    for table in LABELLED:
        op.create_index(f"ix_{table}_labels", table, ["labels"], postgresql_using="gin")


def downgrade() -> None:
    """Drop all; the topic tells a later upgrade what it holds."""
    for table in LABELLED:
        op.drop_index(f"ix_{table}_labels", table_name=table)
    op.drop_table("alerts")
    op.drop_table("audit_export")
