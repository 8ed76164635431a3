"""Quiet views are told soon after their last rows, then ever more rarely."""

from hypothesis import given
from hypothesis import strategies as st

from functions.operators.quiet import QuietPace


@given(st.lists(st.booleans(), max_size=200))
def test_a_view_is_told_between_the_interval_and_the_longest_after_what_it_got_last(
    rows: list[bool],
) -> None:
    pace = QuietPace(1.0, 8.0)
    last_s, step_s = -10.0, 1.0
    for n, has_rows in enumerate(rows):
        now_s = n / 2
        if has_rows:
            pace.rows("v", now_s)
            last_s, step_s = now_s, 1.0
        due = pace.due(["v"], now_s)
        if n == 0 and not has_rows:
            assert due == ["v"]  # nothing is known of it
        else:
            assert (due == ["v"]) == (now_s >= last_s + step_s)
        if due:
            pace.told("v", now_s)
            step_s = 1.0 if n == 0 else min(2 * step_s, 8.0)
            last_s = now_s


def test_a_view_that_is_gone_is_forgotten_and_a_new_one_due_at_once() -> None:
    pace = QuietPace(1.0, 8.0)
    pace.rows("old", 0.0)
    assert pace.due(["new"], 0.0) == ["new"]
    assert pace.due(["new", "old"], 0.1) == []  # asked again too soon
    assert pace.due(["new", "old"], 0.6) == ["new", "old"]


def test_the_longest_distance_is_at_least_the_interval() -> None:
    pace = QuietPace(2.0, 1.0)
    pace.told("v", 0.0)
    assert pace.due(["v"], 1.9) == []
    assert pace.due(["v"], 3.0) == ["v"]
