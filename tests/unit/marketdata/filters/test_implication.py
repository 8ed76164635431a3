"""A filter is said to imply another one only where every event that passes it passes that, too."""

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from strategies import batches, conditions

from marketdata.filters import Filter, FilterError, compile_filter
from marketdata.filters import tree as t
from marketdata.filters.filter import compile_tree
from marketdata.filters.implication import implies
from marketdata.routing_rules import priority_of, share_of

IMPLIED = [
    ("", ""),
    ("price > 1", ""),
    ("price > 200", "price > 100"),
    ("price > 1", "price IS NOT NULL"),
    ("price = 3", "price NOT IN (1, 2)"),
    ("price > 200 OR size > 10", "size > 10 OR price > 200"),
    ("kind = 'trade' AND price > 2", "kind = 'bar' OR price > 1 AND price > 0"),
    ("venue = 'A' AND price > 1", "venue IN ('A', 'B')"),
    ("venue = 'A' OR venue = 'B' AND price > 1", "venue IN ('A', 'B', 'C')"),
    ("venue NOT IN ('A', 'B')", "venue <> 'A'"),
    ("bid_price > 1", "kind = 'quote'"),
    ("instrument IN SET 'mine' AND price > 1", "instrument IN SET 'mine'"),
    ("instrument LIKE 'A%'", "instrument LIKE 'A%' OR price > 1"),
    ("sequence % 10 = 0", "sequence % 10 = 0"),
]
NOT_IMPLIED = [
    ("", "price > 1"),
    ("price >= 100", "price > 100"),
    # An event without a price is not at most 100, and neither is it above.
    ("price > 100 OR price IS NULL", "price > 100"),
    ("kind = 'trade'", "NOT (price > 100) OR price > 100"),
    ("kind IN ('trade', 'bar')", "kind = 'trade'"),
    ("instrument IN SET 'mine'", "instrument IN SET 'other'"),
    ("instrument IN SET 'mine'", "instrument IN ('A', 'B')"),
    ("venue <> 'A'", "venue NOT IN ('A', 'B')"),
    ("instrument LIKE 'A%'", "instrument LIKE 'AB%'"),
]


@pytest.mark.parametrize(("one", "other"), IMPLIED)
def test_what_is_implied_is_found(one: str, other: str) -> None:
    assert implies(compile_filter(one), compile_filter(other))


@pytest.mark.parametrize(("one", "other"), NOT_IMPLIED)
def test_what_is_not_implied_is_not(one: str, other: str) -> None:
    assert not implies(compile_filter(one), compile_filter(other))


def compiled(tree: t.Expression) -> Filter:
    try:
        return compile_tree(tree)
    except FilterError:
        assume(False)
        raise


CLOSE = st.sampled_from(
    [
        tuple(compile_filter(sql).tree for sql in pair)
        for pair in IMPLIED + NOT_IMPLIED
        if "IN SET" not in pair[0]
    ]
)
TERMS = conditions(1) | CLOSE.map(lambda pair: pair[0]) | CLOSE.map(lambda pair: pair[1])


@st.composite
def pairs(draw: st.DrawFn) -> tuple[t.Expression, t.Expression]:
    """Two conditions: any, or the one made of the other so that it may be implied, or not."""
    other, more = draw(TERMS), draw(TERMS)
    one = draw(
        st.sampled_from([more, t.And((other, more)), t.Or((other, more)), other, t.Not(other)])
    )
    wider = draw(st.sampled_from([other, t.Or((other, more)), t.Not(t.Not(other))]))
    return one, wider


@settings(
    max_examples=120, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(pairs() | CLOSE, st.lists(batches(), min_size=1, max_size=4))
def test_whatever_passes_a_filter_passes_what_it_is_said_to_imply(
    pair: tuple[t.Expression, t.Expression], frames: list
) -> None:
    one, other = map(compiled, pair)
    said, share = implies(one, other), share_of(one, other)
    assert said == (share == "every")
    event(share)
    for frame in frames:
        passing, fulfilling = one.mask(frame), other.mask(frame)
        if said:
            assert not (passing & ~fulfilling).any()
        if share == "none":
            assert not (passing & fulfilling).any()
        event(f"{share}, and some pass: {passing.any()}")


def test_the_first_rule_that_every_event_of_a_view_fulfils_gives_the_priority() -> None:
    view = compile_filter("kind = 'trade' AND venue = 'XNAS'")
    quotes, big, trades, everything = (
        compile_filter(sql) for sql in ("kind = 'quote'", "price > 100", "kind = 'trade'", "")
    )
    assert [share_of(view, each) for each in (quotes, big, trades, everything)] == [
        "none",
        "some",
        "every",
        "every",
    ]
    rules = [(quotes, 0), (big, 2), (trades, 3), (everything, 0)]
    assert priority_of(view, rules) == 3
    assert priority_of(view, rules[:2]) is None
    assert priority_of(view, rules[::-1]) == 0
