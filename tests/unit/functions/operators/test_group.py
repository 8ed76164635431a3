"""Cutting groups of frames into runs, and the places of pieces that do not fit a message."""

from dataclasses import dataclass
from itertools import accumulate
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from functions.operators.group import FrameGroup
from marketdata.formats.registry import LEAST_ROWS, MOST_ROWS
from marketdata.positions import Position


@dataclass(frozen=True)
class Item:
    position: int


PLACE = 1000
"""Between the positions of neighbouring frames."""


@st.composite
def groups(draw: st.DrawFn) -> tuple[FrameGroup[Item], list[int], list[int] | None]:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=8))
    group: FrameGroup[Item] = FrameGroup("trade", max_rows=1000, max_bytes=10**9)
    for number, size in enumerate(sizes):
        batch = pa.record_batch({"n": list(range(size))})
        assert group.add(Item(PLACE * number + PLACE), "trade", batch)
    number = st.integers(0, sum(sizes) - 1)
    selected = draw(st.none() | st.sets(number).map(sorted))
    return group, sizes, selected


Run = tuple[list[Item], list[int], int]


def runs_of(
    group: FrameGroup[Item], position: int, selected: list[int] | None, most: int, message: int
) -> list[Run]:
    rows = None if selected is None else np.array(selected, dtype=np.int64)
    runs = group.runs_after(position, rows, max_rows=most, max_message_rows=message)
    return [
        (items, list(range(group.rows)) if run is None else run.tolist(), place)
        for items, run, place in runs
    ]


@given(groups(), st.integers(1, 12), st.integers(1, 12))
def test_runs_hold_every_selected_row_once_in_order(
    case: tuple[FrameGroup[Item], list[int], list[int] | None], most: int, message: int
) -> None:
    group, sizes, selected = case
    starts = [0, *accumulate(sizes)]

    runs = runs_of(group, -1, selected, most, message)

    assert [row for _, run, _ in runs for row in run] == (
        list(range(sum(sizes))) if selected is None else selected
    )
    places = [place for _, _, place in runs]
    assert places == sorted(set(places))
    for items, run, place in runs:
        assert 1 <= len(run) <= message
        first, last = (item.position // PLACE - 1 for item in (items[0], items[-1]))
        assert [item.position // PLACE - 1 for item in items] == list(range(first, last + 1))
        assert starts[first] <= run[0]
        assert run[-1] < starts[last + 1]
        assert items[-1].position - PLACE < place <= items[-1].position
        # More than asked for only where a single frame has more.
        with_rows = {int(np.searchsorted(starts, row, side="right")) for row in run}
        assert len(run) <= most or len(with_rows) == 1


@given(groups(), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.data())
def test_what_is_stored_is_left_out_however_the_rest_is_grouped(
    case: tuple[FrameGroup[Item], list[int], list[int] | None],
    most: int,
    later_most: int,
    message: int,
    data: st.DataObject,
) -> None:
    group, _, selected = case
    runs = runs_of(group, -1, selected, most, message)
    stored = data.draw(st.integers(0, len(runs)))
    position = runs[stored - 1][2] if stored else -1

    rest = runs_of(group, position, selected, later_most, message)

    assert [row for _, run, _ in rest for row in run] == [
        row for _, run, _ in runs[stored:] for row in run
    ]


@given(groups(), st.integers(1, 12), st.integers(1, 12), st.data())
def test_a_position_tells_which_rows_are_done_with_whatever_is_selected(
    case: tuple[FrameGroup[Item], list[int], list[int] | None],
    most: int,
    message: int,
    data: st.DataObject,
) -> None:
    group, sizes, selected = case
    runs = runs_of(group, -1, selected, most, message)
    stored = data.draw(st.integers(0, len(runs)))
    position = runs[stored - 1][2] if stored else -1
    other = data.draw(st.sets(st.integers(0, sum(sizes) - 1)).map(sorted))

    lacking = [row for _, run, _ in runs_of(group, position, None, 12, message) for row in run]
    rest = runs_of(group, position, other, most, message)

    done = set(range(sum(sizes))) - set(lacking)
    assert {row for _, run, _ in runs[:stored] for row in run} <= done
    assert {row for _, run, _ in runs[stored:] for row in run} <= set(lacking)
    assert [row for _, run, _ in rest for row in run] == [row for row in other if row not in done]


def test_the_smallest_pieces_of_the_longest_frame_have_places_behind_the_frame_before() -> None:
    before, own = Position(7, 3).pack(), Position(7, 4).pack()
    item: Any = SimpleNamespace(position=own)
    group: FrameGroup[Any] = FrameGroup("trade", max_rows=MOST_ROWS, max_bytes=1)
    group.add(item, "trade", pa.record_batch({"n": pa.nulls(MOST_ROWS, pa.int8())}))
    runs = group.runs_after(before, None, max_rows=MOST_ROWS, max_message_rows=LEAST_ROWS)
    found = [(place, rows) for _, rows, place in runs if rows is not None]
    places = [place for place, _ in found]
    assert np.array_equal(np.concatenate([rows for _, rows in found]), np.arange(MOST_ROWS))
    assert places == sorted(set(places))
    assert places[0] > before
    assert places[-1] == own
