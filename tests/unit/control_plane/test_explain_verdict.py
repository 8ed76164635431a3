"""What is said of an event, from the filter, the subscription's time and the view's topic."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from control_plane.domains.explain.events import (
    ViewMessage,
    ViewTrace,
    keys_of,
    newest_key_of,
)
from control_plane.domains.explain.verdict import Span, judge
from marketdata.control_frames import HEARTBEAT, NEXT_SEQUENCES
from marketdata.frames import encode_frame, read_frame
from marketdata.positions import Position
from marketdata.schemas import SEQUENCED_SCHEMAS

MADE = datetime(2026, 1, 31, 12, tzinfo=UTC)
ACTIVE = MADE + timedelta(seconds=1)
BEFORE, WITHIN, LATER = (MADE + timedelta(seconds=s) for s in (-60, 0.5, 60))
CLOSED = MADE + timedelta(seconds=30)
PLACE = Position(7, 3).pack()


def span(**changed: Any) -> Span:
    usual: dict[str, Any] = {
        "earliest": False,
        "first_of_view": False,
        "created_at": MADE,
        "activated_at": ACTIVE,
        "closed_at": None,
    }
    return Span(**usual | changed)


def trace(
    row: int | None = None,
    at: datetime = LATER,
    *,
    preceded: bool = True,
    first_delivery: int = 5,
    readable: bool = True,
    place: int = PLACE + 8,
) -> ViewTrace:
    message = ViewMessage(Position(9, 1), place, at, 4, 1, first_delivery, row, readable)
    return ViewTrace(message, preceded)


def verdict(
    found: ViewTrace, taken: Span, *, passes: bool | None = True, at: datetime = LATER
) -> str:
    said, reason = judge(
        sequenced_at=at, place=PLACE, passes=passes, passes_now=passes, span=taken, trace=found
    )
    assert reason.endswith((".", ".)"))
    return said


@pytest.mark.parametrize(
    ("at", "taken", "expected"),
    [
        (LATER, span(), "delivered"),
        (ACTIVE, span(), "delivered"),
        (BEFORE, span(), "before_start"),
        (WITHIN, span(), "unknown"),
        (WITHIN, span(activated_at=None), "unknown"),
        (WITHIN, span(first_of_view=True), "delivered"),
        (BEFORE, span(earliest=True), "delivered"),
        (LATER, span(closed_at=CLOSED), "after_end"),
        (ACTIVE, span(closed_at=CLOSED), "delivered"),
        # Where it named a time or sequences, the message's place decides.
        (BEFORE, span(earliest=True, begins=Position(9, 1)), "delivered"),
        (WITHIN, span(earliest=True, begins=Position(9, 2)), "before_start"),
        (BEFORE, span(earliest=True, first_of_view=True, begins=Position(10, 0)), "before_start"),
    ],
)
def test_an_event_in_the_views_topic_is_the_subscriptions_by_its_time(
    at: datetime, taken: Span, expected: str
) -> None:
    assert verdict(trace(0, at), taken) == expected


def test_what_stands_in_the_topic_outweighs_the_filter_as_it_is_now() -> None:
    said, reason = judge(
        sequenced_at=LATER,
        place=PLACE,
        passes=True,
        passes_now=False,
        span=span(),
        trace=trace(0),
    )
    assert said == "delivered"
    assert "as they are now" in reason


@pytest.mark.parametrize("found", [trace(), ViewTrace(None, preceded=False), trace(preceded=False)])
@pytest.mark.parametrize("at", [BEFORE, LATER])
def test_what_the_filter_holds_back_is_filtered(found: ViewTrace, at: datetime) -> None:
    assert verdict(found, span(), passes=False, at=at) == "filtered"


@pytest.mark.parametrize(
    ("found", "taken", "at", "expected"),
    [
        (ViewTrace(None, preceded=False), span(), LATER, "not_yet"),
        (ViewTrace(None, preceded=False), span(), BEFORE, "before_start"),
        (ViewTrace(None, preceded=False, emptied=True), span(), LATER, "unknown"),
        (ViewTrace(None, preceded=False, emptied=True), span(), BEFORE, "before_start"),
        (ViewTrace(None, preceded=True), span(), LATER, "not_yet"),
        # A view that is behind still has the events from before the subscription to come.
        (ViewTrace(None, preceded=True), span(), BEFORE, "not_yet"),
        (ViewTrace(None, preceded=False), span(closed_at=CLOSED), ACTIVE, "unknown"),
        (ViewTrace(None, preceded=False), span(closed_at=CLOSED), LATER, "after_end"),
        (trace(preceded=False), span(), BEFORE, "before_start"),
        (trace(preceded=False), span(), LATER, "unknown"),
        (trace(preceded=False, first_delivery=1), span(), WITHIN, "before_start"),
        (trace(preceded=False, first_delivery=1, place=PLACE), span(), WITHIN, "unknown"),
        (trace(readable=False), span(), LATER, "unknown"),
        (trace(), span(), LATER, "unknown"),
    ],
)
def test_an_event_that_passes_and_is_not_there(
    found: ViewTrace, taken: Span, at: datetime, expected: str
) -> None:
    assert verdict(found, taken, at=at) == expected


def test_what_a_message_tells_as_skipped_was_conflated() -> None:
    assert verdict(replace(trace(), skipped=True), span()) == "conflated"
    assert verdict(replace(trace(), skipped=True), span(), passes=False) == "filtered"


def test_without_its_sets_nothing_is_said_of_the_filter() -> None:
    assert verdict(trace(), span(), passes=None) == "unknown"
    assert verdict(trace(0), span(), passes=None) == "delivered"


def logged(*keys: tuple[str, int, int]) -> pa.RecordBatch:
    """A frame of the log with these instruments, epochs and sequences."""
    times = dict.fromkeys(("ts_event", "ts_publish", "ts_sequenced"), 1)
    rows = [
        {"instrument": name, "venue": "XNAS", "source": "t", "epoch": epoch, "sequence": number}
        | times
        for name, epoch, number in keys
    ]
    batch = pa.RecordBatch.from_pylist(rows, schema=SEQUENCED_SCHEMAS["trade"])
    return read_frame(encode_frame(batch))


def test_a_frame_tells_the_numbers_of_an_instrument_in_it() -> None:
    batch = logged(("A", 1, 8), ("B", 1, 3), ("A", 1, 9))
    assert keys_of(batch, "A") == [(1, 8, 0), (1, 9, 2)]
    assert keys_of(batch, "C") == []
    assert newest_key_of(batch, {"kind": "trade"}, "A") == (1, 9)
    assert newest_key_of(batch, {"kind": "trade"}, "C") is None


def test_a_heartbeat_tells_the_number_before_the_next() -> None:
    told = [{"instrument": "A", "sequence": 9, "epoch": 2}]
    batch = pa.RecordBatch.from_pylist(told, schema=NEXT_SEQUENCES)
    assert newest_key_of(batch, {"kind": HEARTBEAT}, "A") == (2, 8)
    assert newest_key_of(batch, {"kind": HEARTBEAT}, "B") is None


def test_an_event_that_breaks_a_rule_is_filtered_by_it() -> None:
    said, reason = judge(
        sequenced_at=LATER,
        place=PLACE,
        passes=True,
        passes_now=True,
        span=span(),
        trace=trace(),
        broken=("crossed", "old"),
    )
    assert said == "filtered"
    assert reason.endswith("keep it from the view: crossed, old.")
