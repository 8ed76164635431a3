"""Instrument sets and their versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "instrument_sets",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id ~ '^i[0-9a-f]{16}$'", name=op.f("ck_instrument_sets_id_form")),
        sa.CheckConstraint(
            "name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'",
            name=op.f("ck_instrument_sets_name_form"),
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_instrument_sets_version_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instrument_sets")),
    )
    op.create_index(
        "uq_instrument_sets_name_live",
        "instrument_sets",
        ["name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "instrument_set_versions",
        sa.Column("set_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("instruments", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("added", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("removed", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("plan", sa.BigInteger(), nullable=False),
        sa.Column("correlation_id", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("plan >= 0", name=op.f("ck_instrument_set_versions_plan_not_negative")),
        sa.CheckConstraint(
            "version >= 1", name=op.f("ck_instrument_set_versions_version_positive")
        ),
        sa.ForeignKeyConstraint(
            ["set_id"],
            ["instrument_sets.id"],
            name=op.f("fk_instrument_set_versions_set_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("set_id", "version", name=op.f("pk_instrument_set_versions")),
    )


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("instrument_set_versions")
    op.drop_table("instrument_sets")
