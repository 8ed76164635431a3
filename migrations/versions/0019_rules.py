"""Routing rules, and the workflow of a consumer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def _now(name: str) -> sa.Column[sa.DateTime]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text("clock_timestamp()"),
        nullable=False,
    )


def upgrade() -> None:
    """Create the table and the column; without rules everything is allowed, as before."""
    op.add_column("consumers", sa.Column("workflow", sa.Text(), server_default="", nullable=False))
    op.create_table(
        "rules",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("condition", sa.Text(), server_default="", nullable=False),
        sa.Column("predicate", postgresql.JSONB(), nullable=False),
        sa.Column("origin_regions", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("origin_regions_except", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("consumers", postgresql.JSONB(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=True),
        sa.Column("plan", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column("correlation_id", sa.Text(), server_default="", nullable=False),
        _now("created_at"),
        _now("updated_at"),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id ~ '^u[0-9a-f]{16}$'", name=op.f("ck_rules_id_form")),
        sa.CheckConstraint(
            "name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name=op.f("ck_rules_name_form")
        ),
        sa.CheckConstraint("effect IN ('allow', 'deny')", name=op.f("ck_rules_effect_known")),
        sa.CheckConstraint("version >= 1", name=op.f("ck_rules_version_positive")),
        sa.CheckConstraint("position >= 1", name=op.f("ck_rules_position_positive")),
        sa.CheckConstraint(
            "(position IS NULL) = (deleted_at IS NOT NULL)", name=op.f("ck_rules_position_live")
        ),
        sa.CheckConstraint("plan >= 0", name=op.f("ck_rules_plan_not_negative")),
        sa.CheckConstraint(
            "jsonb_typeof(consumers) = 'object'", name=op.f("ck_rules_consumers_object")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rules")),
        sa.UniqueConstraint(
            "position", name="uq_rules_position", deferrable=True, initially="DEFERRED"
        ),
    )
    op.create_index(
        "uq_rules_name_live",
        "rules",
        ["name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    for name, event, each in (
        ("audit_change", "INSERT OR UPDATE OR DELETE", "ROW"),
        ("audit_truncation", "TRUNCATE", "STATEMENT"),
    ):
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON rules FOR EACH {each}"
            " EXECUTE FUNCTION audit_change('id', '{}')"
        )


def downgrade() -> None:
    """Drop both. What rules kept from consumers stays so until their entitlements change."""
    op.drop_table("rules")
    op.drop_column("consumers", "workflow")
