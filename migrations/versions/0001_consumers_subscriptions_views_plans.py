"""The first tables: consumers, subscriptions, views, plans."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "consumers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), server_default="", nullable=False),
        sa.Column("contact", sa.Text(), server_default="", nullable=False),
        sa.Column("region", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "labels",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id ~ '^c[0-9a-f]{16}$'", name=op.f("ck_consumers_id_form")),
        sa.CheckConstraint(
            "jsonb_typeof(labels) = 'object'", name=op.f("ck_consumers_labels_object")
        ),
        sa.CheckConstraint(
            "name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'", name=op.f("ck_consumers_name_form")
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_consumers_version_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consumers")),
    )
    op.create_index(
        "uq_consumers_name_live",
        "consumers",
        ["name"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "plans",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("view_count", sa.BigInteger(), nullable=False),
        sa.Column("correlation_id", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("digest ~ '^[0-9a-f]{64}$'", name=op.f("ck_plans_digest_form")),
        sa.CheckConstraint("number >= 1", name=op.f("ck_plans_number_positive")),
        sa.CheckConstraint("view_count >= 0", name=op.f("ck_plans_view_count_not_negative")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_plans")),
    )
    op.create_index(
        "ix_plans_unpublished",
        "plans",
        ["number"],
        unique=False,
        postgresql_where=sa.text("published_at IS NULL"),
    )
    op.create_table(
        "views",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("retired_in_plan", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("id ~ '^[0-9a-f]{16}$'", name=op.f("ck_views_id_form")),
        sa.CheckConstraint("jsonb_typeof(spec) = 'object'", name=op.f("ck_views_spec_object")),
        sa.CheckConstraint("retired_in_plan >= 1", name=op.f("ck_views_retired_in_plan_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_views")),
        sa.UniqueConstraint("topic", name=op.f("uq_views_topic")),
    )
    op.create_index(
        "ix_views_retired_in_plan",
        "views",
        ["retired_in_plan"],
        unique=False,
        postgresql_where=sa.text("retired_in_plan IS NOT NULL"),
    )
    op.create_table(
        "subscriptions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("consumer_id", sa.Text(), nullable=False),
        sa.Column("view_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("filter", sa.Text(), server_default="", nullable=False),
        sa.Column("start", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column(
            "labels",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("plan", sa.BigInteger(), nullable=False),
        sa.Column("closed_in_plan", sa.BigInteger(), nullable=True),
        sa.Column("version", sa.Integer(), server_default="1", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cursor_removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'closed') = (closed_at IS NOT NULL AND closed_in_plan IS NOT NULL)",
            name=op.f("ck_subscriptions_closed_complete"),
        ),
        sa.CheckConstraint(
            "cursor_removed_at IS NULL OR state = 'closed'",
            name=op.f("ck_subscriptions_cursor_after_close"),
        ),
        sa.CheckConstraint("id ~ '^s[0-9a-f]{16}$'", name=op.f("ck_subscriptions_id_form")),
        sa.CheckConstraint(
            "jsonb_typeof(labels) = 'object'", name=op.f("ck_subscriptions_labels_object")
        ),
        sa.CheckConstraint(
            "name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'",
            name=op.f("ck_subscriptions_name_form"),
        ),
        sa.CheckConstraint(
            "state <> 'active' OR activated_at IS NOT NULL",
            name=op.f("ck_subscriptions_active_complete"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'active', 'closed')", name=op.f("ck_subscriptions_state_known")
        ),
        sa.CheckConstraint(
            "\"start\" IN ('latest', 'earliest')", name=op.f("ck_subscriptions_start_known")
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_subscriptions_version_positive")),
        sa.ForeignKeyConstraint(
            ["consumer_id"],
            ["consumers.id"],
            name=op.f("fk_subscriptions_consumer_id"),
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["view_id"], ["views.id"], name=op.f("fk_subscriptions_view_id"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscriptions")),
    )
    op.create_index(
        op.f("ix_subscriptions_consumer_id"), "subscriptions", ["consumer_id"], unique=False
    )
    op.create_index(
        "ix_subscriptions_cursor_left",
        "subscriptions",
        ["closed_in_plan"],
        unique=False,
        postgresql_where=sa.text("state = 'closed' AND cursor_removed_at IS NULL"),
    )
    op.create_index(
        "ix_subscriptions_pending",
        "subscriptions",
        ["plan"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_subscriptions_view_live",
        "subscriptions",
        ["view_id"],
        unique=False,
        postgresql_where=sa.text("state <> 'closed'"),
    )
    op.create_index(
        "uq_subscriptions_consumer_name_live",
        "subscriptions",
        ["consumer_id", "name"],
        unique=True,
        postgresql_where=sa.text("state <> 'closed'"),
    )


def downgrade() -> None:
    """Drop the tables with all that is in them."""
    op.drop_index(
        "uq_subscriptions_consumer_name_live",
        table_name="subscriptions",
        postgresql_where=sa.text("state <> 'closed'"),
    )
    op.drop_index(
        "ix_subscriptions_view_live",
        table_name="subscriptions",
        postgresql_where=sa.text("state <> 'closed'"),
    )
    op.drop_index(
        "ix_subscriptions_pending",
        table_name="subscriptions",
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.drop_index(
        "ix_subscriptions_cursor_left",
        table_name="subscriptions",
        postgresql_where=sa.text("state = 'closed' AND cursor_removed_at IS NULL"),
    )
    op.drop_index(op.f("ix_subscriptions_consumer_id"), table_name="subscriptions")
    op.drop_table("subscriptions")
    op.drop_index(
        "ix_views_retired_in_plan",
        table_name="views",
        postgresql_where=sa.text("retired_in_plan IS NOT NULL"),
    )
    op.drop_table("views")
    op.drop_index(
        "ix_plans_unpublished", table_name="plans", postgresql_where=sa.text("published_at IS NULL")
    )
    op.drop_table("plans")
    op.drop_index(
        "uq_consumers_name_live",
        table_name="consumers",
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.drop_table("consumers")
