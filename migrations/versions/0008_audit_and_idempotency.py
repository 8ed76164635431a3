"""The audit log, written by triggers, and the keys of requests that are not carried out twice."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Table, the column that names a row, columns too large to be told, and when a removal is told:
# what is forgotten because it is over is no news.
AUDITED = (
    ("consumers", "id", (), "true"),
    ("subscriptions", "id", (), "true"),
    ("instrument_sets", "id", (), "true"),
    ("instrument_set_versions", "set_id", ("instruments",), "true"),
    ("plans", "number", ("document",), "true"),
    ("dead_letter_resends", "letter_id", (), "true"),
    ("tokens", "id", (), "OLD.expires_at > now()"),
    ("token_revocations", "id", (), "OLD.forget_after > now()"),
)

CHANGE = """
CREATE FUNCTION audit_change() RETURNS trigger LANGUAGE plpgsql SET "TimeZone" TO 'UTC' AS $$
DECLARE
    who jsonb := coalesce(nullif(current_setting('dds.acting', true), ''), '{}')::jsonb;
    hidden jsonb := TG_ARGV[1]::jsonb;
    names text[] := ARRAY(SELECT jsonb_object_keys(hidden));
    was jsonb;
    becomes jsonb;
    named text;
BEGIN
    -- First without what is large, so that it is not read.
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        OLD := jsonb_populate_record(OLD, hidden);
        was := to_jsonb(OLD) - names;
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        NEW := jsonb_populate_record(NEW, hidden);
        becomes := to_jsonb(NEW) - names;
    END IF;
    named := coalesce(coalesce(becomes, was) ->> TG_ARGV[0], '*');
    IF TG_OP = 'UPDATE' THEN
        SELECT jsonb_object_agg(had.key, had.value), jsonb_object_agg(had.key, becomes -> had.key)
            INTO was, becomes
            FROM jsonb_each(was) had WHERE had.value IS DISTINCT FROM becomes -> had.key;
        IF was IS NULL THEN
            RETURN NULL;
        END IF;
    END IF;
    INSERT INTO audit_entries (
        actor, role, token_id, operation, request_id, address,
        action, resource, resource_id, before, after
    ) VALUES (
        coalesce(who ->> 'actor', 'database'), coalesce(who ->> 'role', ''),
        coalesce(who ->> 'token_id', ''), coalesce(who ->> 'operation', ''),
        coalesce(who ->> 'request_id', ''), coalesce(who ->> 'address', ''),
        lower(TG_OP), TG_TABLE_NAME, named, was, becomes
    );
    RETURN NULL;
END $$
"""

GUARD = """
CREATE FUNCTION audit_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sealed audit_entries;
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.recorded_at := clock_timestamp();
        NEW.database_user := session_user;
        NEW.sequence := NULL;
        NEW.digest := NULL;
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND OLD.sequence IS NULL AND NEW.sequence IS NOT NULL THEN
        sealed := OLD;
        sealed.sequence := NEW.sequence;
        sealed.digest := NEW.digest;
        IF sealed IS NOT DISTINCT FROM NEW THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'The audit log can only be added to.' USING ERRCODE = 'insufficient_privilege';
END $$
"""

HEAD_GUARD = """
CREATE FUNCTION audit_head_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.sequence > OLD.sequence THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'The head of the audit log only moves on.'
        USING ERRCODE = 'insufficient_privilege';
END $$
"""


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), server_default="", nullable=False)


def upgrade() -> None:
    """Create the tables, the functions and the triggers."""
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "recorded_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("actor", sa.Text(), nullable=False),
        *map(_text, ("role", "token_id", "operation", "request_id", "address")),
        sa.Column(
            "database_user", sa.Text(), server_default=sa.text("SESSION_USER"), nullable=False
        ),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), server_default="done", nullable=False),
        sa.Column("before", postgresql.JSONB(), nullable=True),
        sa.Column("after", postgresql.JSONB(), nullable=True),
        sa.Column("detail", postgresql.JSONB(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('done', 'failed', 'refused')", name=op.f("ck_audit_entries_outcome_known")
        ),
        sa.CheckConstraint(
            "(sequence IS NULL) = (digest IS NULL)", name=op.f("ck_audit_entries_sealed_complete")
        ),
        sa.CheckConstraint("sequence >= 1", name=op.f("ck_audit_entries_sequence_positive")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
        sa.UniqueConstraint("sequence", name=op.f("uq_audit_entries_sequence")),
    )
    op.create_index(
        "ix_audit_entries_unsealed",
        "audit_entries",
        ["id"],
        postgresql_where=sa.text("sequence IS NULL"),
    )
    op.create_index("ix_audit_entries_resource", "audit_entries", ["resource", "resource_id", "id"])
    op.create_index("ix_audit_entries_actor", "audit_entries", ["actor", "id"])
    op.create_index(
        "ix_audit_entries_recorded_at", "audit_entries", ["recorded_at"], postgresql_using="brin"
    )
    op.create_table(
        "audit_head",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("one", name=op.f("ck_audit_head_one_row")),
        sa.PrimaryKeyConstraint("one", name=op.f("pk_audit_head")),
    )
    op.execute(
        "INSERT INTO audit_head (sequence, digest) VALUES (0, decode(repeat('00', 32), 'hex'))"
    )
    op.execute(CHANGE)
    op.execute(GUARD)
    op.execute(HEAD_GUARD)
    op.execute(
        "CREATE TRIGGER audit_guard BEFORE INSERT OR UPDATE OR DELETE ON audit_entries"
        " FOR EACH ROW EXECUTE FUNCTION audit_guard()"
    )
    op.execute(
        "CREATE TRIGGER audit_head_guard BEFORE UPDATE OR DELETE ON audit_head"
        " FOR EACH ROW EXECUTE FUNCTION audit_head_guard()"
    )
    for table, function in (("audit_entries", "audit_guard"), ("audit_head", "audit_head_guard")):
        op.execute(
            f"CREATE TRIGGER {function}_truncate BEFORE TRUNCATE ON {table}"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
        )
    for table, key, large, removal in AUDITED:
        hidden = "{" + ", ".join(f'"{name}": null' for name in large) + "}"
        for name, event, each in (
            ("audit_change", "INSERT OR UPDATE", "ROW"),
            ("audit_removal", "DELETE", f"ROW WHEN ({removal})"),
            ("audit_truncation", "TRUNCATE", "STATEMENT"),
        ):
            op.execute(
                f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH {each}"
                f" EXECUTE FUNCTION audit_change('{key}', '{hidden}')"
            )

    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("headers", postgresql.JSONB(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "(status IS NULL) = (body IS NULL) AND (status IS NULL) = (headers IS NULL)",
            name=op.f("ck_idempotency_keys_answer_complete"),
        ),
        sa.PrimaryKeyConstraint("caller", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])


def downgrade() -> None:
    """Drop it all; the log is lost."""
    op.drop_table("idempotency_keys")
    for table, *_ in AUDITED:
        for name in ("audit_change", "audit_removal", "audit_truncation"):
            op.execute(f"DROP TRIGGER {name} ON {table}")
    op.drop_table("audit_head")
    op.drop_table("audit_entries")
    for function in ("audit_change", "audit_guard", "audit_head_guard"):
        op.execute(f"DROP FUNCTION {function}()")
