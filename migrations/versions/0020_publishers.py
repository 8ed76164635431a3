"""Publishers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0020"
down_revision = "0019"
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
    """Create the table; whoever has a token may go on without being registered."""
    op.create_table(
        "publishers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), server_default="", nullable=False),
        sa.Column("contact", sa.Text(), server_default="", nullable=False),
        sa.Column("region", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "labels", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False
        ),
        sa.Column("sources", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("venues", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("kinds", postgresql.ARRAY(sa.Text()), nullable=True),
        sa.Column("suspended", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        _now("created_at"),
        _now("updated_at"),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id ~ '^p[0-9a-f]{16}$'", name=op.f("ck_publishers_id_form")),
        sa.CheckConstraint(
            "name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name=op.f("ck_publishers_name_form")
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_publishers_version_positive")),
        sa.CheckConstraint(
            "jsonb_typeof(labels) = 'object'", name=op.f("ck_publishers_labels_object")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publishers")),
    )
    op.create_index(
        "uq_publishers_name_live",
        "publishers",
        ["name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    for name, event, each in (
        ("audit_change", "INSERT OR UPDATE OR DELETE", "ROW"),
        ("audit_truncation", "TRUNCATE", "STATEMENT"),
    ):
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON publishers FOR EACH {each}"
            " EXECUTE FUNCTION audit_change('id', '{}')"
        )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("publishers")
