"""Holes are what was added and not filled, whatever the order."""

from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.holes import Holes

ranges_strategy = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 10)).map(lambda r: (r[0], r[0] + r[1])),
    max_size=20,
)


@settings(deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=10))
def test_ranges_are_what_was_added(steps: list[tuple[int, int]]) -> None:
    holes, added, at = Holes(), [], 1
    for skip, size in steps:
        added.append((at + skip, at + skip + size - 1))
        holes.add(*added[-1])
        at += skip + size
    assert holes.ranges() == added


@settings(deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=10),
    fills=ranges_strategy,
)
def test_filling_agrees_with_sets(
    steps: list[tuple[int, int]], fills: list[tuple[int, int]]
) -> None:
    holes, missing, at = Holes(), set(), 1
    for skip, size in steps:
        holes.add(at + skip, at + skip + size - 1)
        missing |= set(range(at + skip, at + skip + size))
        at += skip + size
    for first, last in fills:
        parts = list(holes.fill(first, last))
        numbers = [(n, fills_one) for fills_one, a, b in parts for n in range(a, b + 1)]
        assert numbers == [(n, n in missing) for n in range(first, last + 1)]
        missing -= set(range(first, last + 1))
    left = {n for a, b in holes.ranges() for n in range(a, b + 1)}
    assert left == missing


def test_only_the_newest_are_kept_where_a_bound_is_given() -> None:
    holes = Holes(2)
    for first in (1, 3, 5):
        holes.add(first, first)
    assert holes.ranges() == [(3, 3), (5, 5)]
