"""What the routing rules were as of each plan, and which plan rolls back to which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

# What the rules were before is not known: they hold, as they are, from the newest plan on. Where
# there has never been any, that was so from the first one on.
FIRST_VERSION = """
INSERT INTO rule_list_versions (version, rules, plan)
SELECT 1,
    coalesce(
        jsonb_agg(
            jsonb_build_object(
                'id', id, 'name', name, 'description', description,
                'when', condition, 'predicate', predicate,
                'origin_regions', to_jsonb(origin_regions),
                'origin_regions_except', to_jsonb(origin_regions_except),
                'consumers', consumers, 'effect', effect, 'enabled', enabled
            ) ORDER BY position
        ) FILTER (WHERE deleted_at IS NULL),
        '[]'
    ),
    CASE WHEN count(*) > 0 THEN coalesce((SELECT max(number) FROM plans), 0) ELSE 0 END
FROM rules
"""


def upgrade() -> None:
    """Create the table with what the rules are now, the column and the index."""
    op.add_column("plans", sa.Column("rolled_back_to", sa.BigInteger(), nullable=True))
    op.create_check_constraint(
        op.f("ck_plans_rolled_back_to_earlier"), "plans", "rolled_back_to < number"
    )
    op.create_table(
        "rule_list_versions",
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("rules", postgresql.JSONB(), nullable=False),
        sa.Column("plan", sa.BigInteger(), nullable=False),
        sa.Column("correlation_id", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("version >= 1", name=op.f("ck_rule_list_versions_version_positive")),
        sa.CheckConstraint("plan >= 0", name=op.f("ck_rule_list_versions_plan_not_negative")),
        sa.CheckConstraint(
            "jsonb_typeof(rules) = 'array'", name=op.f("ck_rule_list_versions_rules_array")
        ),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_rule_list_versions")),
    )
    op.execute(FIRST_VERSION)
    for name, event, each in (
        ("audit_change", "INSERT OR UPDATE OR DELETE", "ROW"),
        ("audit_truncation", "TRUNCATE", "STATEMENT"),
    ):
        op.execute(
            f"CREATE TRIGGER {name} AFTER {event} ON rule_list_versions FOR EACH {each}"
            " EXECUTE FUNCTION audit_change('version', '{\"rules\": null}')"
        )
    op.create_index(
        "ix_subscription_history_changed",
        "subscription_history",
        ["at"],
        postgresql_where=sa.text("data ? 'before'"),
    )


def downgrade() -> None:
    """Drop them; what the rules were is lost."""
    op.drop_index("ix_subscription_history_changed", table_name="subscription_history")
    op.drop_table("rule_list_versions")
    op.drop_constraint(op.f("ck_plans_rolled_back_to_earlier"), "plans")
    op.drop_column("plans", "rolled_back_to")
