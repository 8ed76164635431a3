"""What a subscription may become: the code and PostgreSQL go by the same table."""

from __future__ import annotations

from itertools import product

import psycopg
import pytest

from control_plane.domains.subscriptions.models import NEXT, State, Subscription

PAIRS = [(before, after) for before, after in product(State, State) if before != after]

COMPLETE = (
    "activated_at = now(), paused_at = CASE WHEN {0} = 'paused' THEN now() END,"
    " closed_at = CASE WHEN {0} = 'closed' THEN now() END,"
    " closed_in_plan = CASE WHEN {0} IN ('draining', 'closed') THEN 2 END"
).format("%(state)s::text")
"""What else is true of a subscription in a state."""


def make(connection: psycopg.Connection, state: State) -> None:
    connection.execute(
        "INSERT INTO consumers (id, name, entitlements) VALUES ('c0000000000000000', 'desk', '{}');"
        "INSERT INTO views (id, topic, spec) VALUES ('0000000000000000', 't', '{}');"
        "INSERT INTO subscriptions (id, consumer_id, view_id, name, start, plan, spec)"
        " VALUES ('s0000000000000000', 'c0000000000000000', '0000000000000000', 's', 'latest', 1,"
        " '{}')"
    )
    become(connection, state)


def become(connection: psycopg.Connection, state: State) -> None:
    statement = f"UPDATE subscriptions SET state = %(state)s, {COMPLETE}"
    connection.execute(statement.encode(), {"state": state.value})


def refusal(url: str, before: State, after: State) -> psycopg.errors.CheckViolation | None:
    """What PostgreSQL says to a change of state, of which nothing stays."""
    with psycopg.connect(url) as connection:
        make(connection, before)
        try:
            become(connection, after)
        except psycopg.errors.CheckViolation as error:
            return error
        finally:
            connection.rollback()
    return None


def test_postgresql_refuses_what_the_table_does_not_name(database_url: str) -> None:
    for before, after in PAIRS:
        refused = refusal(database_url, before, after)
        assert (refused is None) == (after in NEXT[before]), (before, after)
        if refused is not None:
            assert refused.diag.constraint_name == "ck_subscriptions_transition"
            assert f"is {before} and cannot become {after}" in str(refused)


def test_who_stays_what_it_is_is_changed_otherwise(database_url: str) -> None:
    assert [refusal(database_url, state, state) for state in State] == [None] * len(State)


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_the_code_goes_by_the_same_table(before: State, after: State) -> None:
    row = Subscription(id="s0000000000000000", state=before.value)
    if after in NEXT[before]:
        row.become(after)
        assert row.state == after
    else:
        with pytest.raises(ValueError, match=f"is {before} and cannot become {after}"):
            row.become(after)
        assert row.state == before


def test_every_state_is_come_to_and_only_the_end_is_left_for_nothing() -> None:
    assert {after for follow in NEXT.values() for after in follow} == set(State)
    assert [state for state in State if not NEXT[state]] == [State.CLOSED]
