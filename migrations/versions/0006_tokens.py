"""Tokens that were issued, and revocations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("issued_by", sa.Text(), nullable=False),
        sa.Column("renewed_from", sa.Text(), nullable=True),
        sa.Column("issued_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("id ~ '^[0-9a-f]{32}$'", name=op.f("ck_tokens_id_form")),
        sa.CheckConstraint(
            "role IN ('platform', 'publisher', 'consumer', 'read-only')",
            name=op.f("ck_tokens_role_known"),
        ),
        sa.CheckConstraint("expires_at > issued_at", name=op.f("ck_tokens_lifetime_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_index("ix_tokens_expires_at", "tokens", ["expires_at"])
    op.create_index("ix_tokens_subject", "tokens", ["subject", "created_at"])
    op.create_index("ix_tokens_renewed_from", "tokens", ["renewed_from"])
    op.create_table(
        "token_revocations",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("issued_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_by", sa.Text(), nullable=False),
        sa.Column(
            "revoked_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("forget_after", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "(token_id IS NULL) <> (subject IS NULL)",
            name=op.f("ck_token_revocations_token_or_subject"),
        ),
        sa.CheckConstraint(
            "(subject IS NULL) = (issued_until IS NULL)",
            name=op.f("ck_token_revocations_subject_complete"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token_revocations")),
    )
    op.create_index("ix_token_revocations_forget_after", "token_revocations", ["forget_after"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("token_revocations")
    op.drop_table("tokens")
