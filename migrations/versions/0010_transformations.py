"""Shared transformations, and which subscription refers to which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table; existing subscriptions refer to none."""
    op.create_table(
        "transformations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("transformation", postgresql.JSONB(), nullable=False),
        sa.Column("correlation_id", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id ~ '^f[0-9a-f]{16}$'", name=op.f("ck_transformations_id_form")),
        sa.CheckConstraint(
            "name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'",
            name=op.f("ck_transformations_name_form"),
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_transformations_version_positive")),
        sa.CheckConstraint(
            "jsonb_typeof(transformation) = 'object'",
            name=op.f("ck_transformations_transformation_object"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transformations")),
        sa.UniqueConstraint("name", "version", name="uq_transformations_name_version"),
    )
    for name, event, each in (
        ("audit_change", "INSERT OR UPDATE OR DELETE", "ROW"),
        ("audit_truncation", "TRUNCATE", "STATEMENT"),
    ):
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON transformations FOR EACH {each}"
            " EXECUTE FUNCTION audit_change('id', '{}')"
        )
    op.add_column("subscriptions", sa.Column("transformation_id", sa.Text(), nullable=True))
    op.create_foreign_key(
        op.f("fk_subscriptions_transformation_id"),
        "subscriptions",
        "transformations",
        ["transformation_id"],
        ["id"],
        ondelete="RESTRICT",
    )
    op.create_index(
        "ix_subscriptions_transformation_live",
        "subscriptions",
        ["transformation_id"],
        postgresql_where=sa.text("state <> 'closed'"),
    )


def downgrade() -> None:
    """Drop both. Subscriptions keep the transformations that they took over."""
    op.drop_index("ix_subscriptions_transformation_live", table_name="subscriptions")
    op.drop_constraint(
        op.f("fk_subscriptions_transformation_id"), "subscriptions", type_="foreignkey"
    )
    op.drop_column("subscriptions", "transformation_id")
    op.drop_table("transformations")
