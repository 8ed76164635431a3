"""PostgreSQL refuses a state of a subscription that cannot follow the one that it has."""

from __future__ import annotations

from alembic import op

revision = "0031"
down_revision = "0028"
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
    """Add the trigger: rows are what they are, only what they become is looked at."""
    op.execute(FUNCTION)
    op.execute(
        "CREATE TRIGGER subscription_transition BEFORE UPDATE OF state ON subscriptions"
        " FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)"
        " EXECUTE FUNCTION subscription_transition()"
    )


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TRIGGER subscription_transition ON subscriptions")
    op.execute("DROP FUNCTION subscription_transition()")
