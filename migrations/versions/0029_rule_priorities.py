"""Routing rules may give views a priority."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

# Who knows of no such rules would take them for ones that deny.
WITHOUT_THEM = """
DELETE FROM rules WHERE effect = 'prioritize';
UPDATE rules SET position = placed.place
FROM (
    SELECT id, row_number() OVER (ORDER BY position) AS place FROM rules WHERE deleted_at IS NULL
) AS placed
WHERE rules.id = placed.id AND rules.position <> placed.place;
UPDATE rule_list_versions SET rules = coalesce(
    (
        SELECT jsonb_agg(kept.rule ORDER BY kept.place)
        FROM jsonb_array_elements(rules) WITH ORDINALITY AS kept (rule, place)
        WHERE kept.rule ->> 'effect' <> 'prioritize'
    ),
    '[]'
)
WHERE rules @> '[{"effect": "prioritize"}]';
"""


def upgrade() -> None:
    """Add the column, and the effect that needs it."""
    op.add_column("rules", sa.Column("priority", sa.Integer(), nullable=True))
    op.drop_constraint(op.f("ck_rules_effect_known"), "rules")
    for name, condition in (
        ("effect_known", "effect IN ('allow', 'deny', 'prioritize')"),
        ("priority_known", "priority BETWEEN 0 AND 3"),
        ("priority_complete", "(effect = 'prioritize') = (priority IS NOT NULL)"),
    ):
        op.create_check_constraint(op.f(f"ck_rules_{name}"), "rules", condition)


def downgrade() -> None:
    """Drop both, and the rules that have it. Subscriptions keep the views that they have."""
    op.execute(WITHOUT_THEM)
    # Else the table cannot be altered in this transaction.
    op.execute("SET CONSTRAINTS ALL IMMEDIATE")
    for name in ("priority_complete", "priority_known", "effect_known"):
        op.drop_constraint(op.f(f"ck_rules_{name}"), "rules")
    op.create_check_constraint(
        op.f("ck_rules_effect_known"), "rules", "effect IN ('allow', 'deny')"
    )
    op.drop_column("rules", "priority")
