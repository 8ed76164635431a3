"""Reference tables and their versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0011"
branch_labels = None
depends_on = None

# Table, the column that names a row, and what is too large to be told.
AUDITED = (
    ("reference_tables", "id", "{}"),
    ("reference_table_versions", "table_id", '{"content": null}'),
)


def _now(name: str) -> sa.Column[sa.DateTime]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text("clock_timestamp()"),
        nullable=False,
    )


def upgrade() -> None:
    """Create both tables; existing transformations name none."""
    op.create_table(
        "reference_tables",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("columns", postgresql.JSONB(), nullable=False),
        sa.Column("key", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("valid_from", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        _now("created_at"),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id ~ '^r[0-9a-f]{16}$'", name=op.f("ck_reference_tables_id_form")),
        sa.CheckConstraint(
            "name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'",
            name=op.f("ck_reference_tables_name_form"),
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_reference_tables_version_positive")),
        sa.CheckConstraint(
            "jsonb_typeof(columns) = 'array'", name=op.f("ck_reference_tables_columns_array")
        ),
        sa.CheckConstraint("cardinality(key) >= 1", name=op.f("ck_reference_tables_key_not_empty")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reference_tables")),
    )
    op.create_index(
        "uq_reference_tables_name_live",
        "reference_tables",
        ["name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "reference_table_versions",
        sa.Column("table_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("pieces", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=True),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("plan", sa.BigInteger(), nullable=False),
        sa.Column("correlation_id", sa.Text(), server_default="", nullable=False),
        _now("created_at"),
        sa.CheckConstraint(
            "version >= 1", name=op.f("ck_reference_table_versions_version_positive")
        ),
        sa.CheckConstraint(
            "digest ~ '^[0-9a-f]{64}$'", name=op.f("ck_reference_table_versions_digest_form")
        ),
        sa.CheckConstraint(
            "rows >= 0 AND size_bytes > 0 AND pieces >= 1",
            name=op.f("ck_reference_table_versions_size_possible"),
        ),
        sa.CheckConstraint("plan >= 0", name=op.f("ck_reference_table_versions_plan_not_negative")),
        sa.CheckConstraint(
            "published_at IS NULL OR content IS NOT NULL",
            name=op.f("ck_reference_table_versions_published_content"),
        ),
        sa.ForeignKeyConstraint(
            ["table_id"],
            ["reference_tables.id"],
            name=op.f("fk_reference_table_versions_table_id"),
            ondelete="RESTRICT",
        ),
        sa.PrimaryKeyConstraint("table_id", "version", name=op.f("pk_reference_table_versions")),
    )
    op.create_index(
        "ix_reference_table_versions_kept",
        "reference_table_versions",
        ["digest"],
        postgresql_where=sa.text("content IS NOT NULL"),
    )
    for table, key, hidden in AUDITED:
        for name, event, each in (
            ("audit_change", "INSERT OR UPDATE OR DELETE", "ROW"),
            ("audit_truncation", "TRUNCATE", "STATEMENT"),
        ):
            op.execute(
                f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH {each}"
                f" EXECUTE FUNCTION audit_change('{key}', '{hidden}')"
            )


def downgrade() -> None:
    """Drop both. Plans that name tables cannot be run by functions from before."""
    op.drop_table("reference_table_versions")
    op.drop_table("reference_tables")
