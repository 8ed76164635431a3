"""Giving out batches at the pace at which their events happened, and playing a data set again."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa

SLICE_S: Final = 0.01
"""Events go out together that are due within so much real time."""

_LATEST_NS: Final = 9_214_646_400_000_000_000
"""2262-01-01, the last new year that int64 nanoseconds reach."""


def paced(
    batches: Iterable[pa.RecordBatch],
    speed: float | None,
    *,
    max_gap_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[pa.RecordBatch]:
    """The batches, cut and delayed so that event time runs `speed` times as fast as the clock.

    Order and rows stay as they are; an event with an earlier time than one before it is not
    waited for. When the taker is slow, what is due goes out at once.

    Args:
        speed: 1.0 for as it happened; None for no delay at all.
        max_gap_s: longest wait in seconds; what is longer (a night, a weekend) is cut short.
    """
    if speed is None:
        yield from batches
        return
    start_s = clock()
    start_ns = latest_ns = None
    for batch in batches:
        if batch.num_rows == 0:
            continue
        times = np.maximum.accumulate(event_times(batch))
        if start_ns is None or latest_ns is None:
            start_ns = latest_ns = int(times[0])
        times = np.maximum(times, latest_ns)
        latest_ns = int(times[-1])
        low = 0
        while low < batch.num_rows:
            wait_s = start_s + (int(times[low]) - start_ns) / 1e9 / speed - clock()
            if max_gap_s is not None and wait_s > max_gap_s:
                start_s -= wait_s - max_gap_s
                wait_s = max_gap_s
            if wait_s > 0:
                sleep(wait_s)
            due_ns = start_ns + int((clock() - start_s + SLICE_S) * 1e9 * speed)
            high = max(low + 1, int(np.searchsorted(times, due_ns, side="right")))
            yield batch.slice(low, high - low)
            low = high


def repeated(play: Callable[[], Iterable[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """A data set again and again, `ts_event` moved on by its length each time; ends if empty.

    Where the next pass would end after the year 2261, the times of the first are used again.

    Args:
        play: gives the batches of one pass; continuing source sequences is its business.
    """
    shift_ns = 0
    while True:
        first_ns: int | None = None
        last_ns = events = 0
        for batch in play():
            if batch.num_rows == 0:
                continue
            times = event_times(batch)
            low, high = int(times.min()), int(times.max())
            first_ns = low if first_ns is None else min(first_ns, low)
            last_ns = max(last_ns, high)
            events += batch.num_rows
            yield _shifted(batch, times + shift_ns) if shift_ns else batch
        if first_ns is None:
            return
        span_ns = last_ns - first_ns
        shift_ns += span_ns + max(1, span_ns // max(1, events - 1))
        if last_ns + shift_ns > _LATEST_NS:
            shift_ns = 0


def event_times(batch: pa.RecordBatch) -> np.ndarray:
    """`ts_event` of a batch as int64 nanoseconds."""
    times: np.ndarray = batch.column("ts_event").view(pa.int64()).to_numpy()
    return times


def _shifted(batch: pa.RecordBatch, times: np.ndarray) -> pa.RecordBatch:
    for name in ("ts_event", "ts_publish"):
        at = batch.schema.get_field_index(name)
        field = batch.schema.field(at)
        batch = batch.set_column(at, field, pa.array(times).view(field.type))
    return batch
