"""Places of the pieces of frames that do not fit a message."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from functions.operators.group import FrameGroup
from marketdata.formats.registry import LEAST_ROWS, MOST_ROWS
from marketdata.positions import Position


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
