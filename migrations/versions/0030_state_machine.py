"""States of subscriptions follow each other as they may; operations say what they are asked with.

PostgreSQL refuses a state of a subscription that cannot follow the one that it has.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

# As a violated check, so that it surfaces like the other constraints.
FUNCTION = """
CREATE FUNCTION subscription_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.state, NEW.state) NOT IN (
        ('pending', 'active'), ('pending', 'paused'), ('pending', 'draining'),
        ('pending', 'closed'),
        ('active', 'pending'), ('active', 'paused'), ('active', 'draining'), ('active', 'closed'),
        ('paused', 'pending'), ('paused', 'active'), ('paused', 'draining'), ('paused', 'closed'),
        ('draining', 'closed')
    ) THEN
        RAISE EXCEPTION 'subscription % is % and cannot become %', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation', TABLE = 'subscriptions',
                CONSTRAINT = 'ck_subscriptions_transition';
    END IF;
    RETURN NEW;
END;
$$
"""


def upgrade() -> None:
    """Add columns and trigger: rows are what they are, only what they become is looked at."""
    op.add_column("operations", sa.Column("asked", postgresql.JSONB(), nullable=True))
    op.add_column("operations", sa.Column("place", sa.Text(), nullable=True))
    op.execute(FUNCTION)
    op.execute(
        "CREATE TRIGGER subscription_transition BEFORE UPDATE OF state ON subscriptions"
        " FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)"
        " EXECUTE FUNCTION subscription_transition()"
    )


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TRIGGER subscription_transition ON subscriptions")
    op.execute("DROP FUNCTION subscription_transition()")
    # Who does not know the kind would take its target for a function.
    op.execute("DELETE FROM operations WHERE kind = 'dead-letters.resend'")
    op.drop_column("operations", "place")
    op.drop_column("operations", "asked")
