"""Whatever comes on the topic, all of it becomes findings that fit the tables or poison."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ordering_events import closed, event, opened

from control_plane.domains.ordering.intake import (
    MAX_POISON_BYTES,
    WHOLE_MESSAGE,
    Intake,
    Place,
    closings,
    missing_ranges,
    moment,
    tally,
)
from marketdata.ordering import OrderingEvent, encode_ordering_events

PLACE = Place(7, 3)


def intake_of(*events: OrderingEvent, partition: int = 1) -> Intake:
    intake = Intake()
    intake.take(partition, PLACE, encode_ordering_events(list(events)))
    return intake


def test_a_finding_becomes_a_row_with_exact_times_to_the_microsecond() -> None:
    (row,) = intake_of(event()).findings
    assert (row.id, row.type, row.source, row.action) == ("1:70:0", "reversal", "cme", "passed")
    assert row.ts_event.isoformat() == "2023-11-14T22:13:20+00:00"
    assert row.detected_at.isoformat() == "2023-11-14T22:13:20.500000+00:00"
    assert moment(2**63 - 1).year == 2262


def test_an_opening_names_itself_as_its_gap() -> None:
    (row,) = intake_of(opened()).findings
    assert row.gap_id == row.id


@pytest.mark.parametrize(
    "payload",
    [b"", b"{}", b"[1]", b"\xff\xfe", b'[{"id":"x"}]', b'["\\ud800"]', b"[" * 5000, b"null"],
)
def test_what_is_no_array_of_findings_is_kept_whole(payload: bytes) -> None:
    intake = Intake()
    intake.take(1, PLACE, payload)
    (row,) = intake.poison
    assert (row.finding, row.payload, row.payload_bytes) == (WHOLE_MESSAGE, payload, len(payload))
    assert (row.partition, row.ledger_id, row.entry_id, row.batch_index) == (1, 7, 3, -1)
    assert row.reason
    assert not intake.findings


def test_a_large_one_is_cut_and_its_size_told() -> None:
    intake = Intake()
    intake.take(1, PLACE, b"x" * (MAX_POISON_BYTES + 5))
    assert len(intake.poison[0].payload) == MAX_POISON_BYTES
    assert intake.poison[0].payload_bytes == MAX_POISON_BYTES + 5


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"id": ""}, "id is empty"),
        ({"instrument": "A\x00B"}, "instrument holds U\\+0000"),
        ({"reason": "x" * 2001}, "more than 2000"),
        ({"partition": 2}, "came on 1"),
        ({"first": 6}, "first 6 is above last 5"),
        ({"last": 2**64}, "last is 18446744073709551616"),
        ({"position": 2**63}, "position is"),
        ({"epoch": -1}, "epoch is -1"),
        ({"detected_at_ns": -1}, "detected_at_ns is -1"),
        ({"gap_id": "1:70:0"}, "gap_id is given for reversal"),
        ({"closed_by": "fill"}, "closed_by belongs"),
        ({"type": "gap_closed", "gap_id": "1:1:1"}, "closed_by belongs"),
        ({"type": "gap_closed", "closed_by": "fill"}, "gap_id is empty"),
        ({"type": "gap_opened", "gap_id": "1:1:1"}, "it is its own id"),
        ({"type": "gap_opened", "events": 0}, "nothing is missing"),
    ],
)
def test_a_bad_finding_is_refused_and_its_neighbours_are_not(
    members: dict[str, Any], told: str
) -> None:
    intake = intake_of(event(1), event(2, **members), event(3))
    assert [row.id for row in intake.findings] == ["1:70:1", "1:70:3"]
    (row,) = intake.poison
    assert row.finding == 1
    assert msgspec.json.decode(row.payload)
    assert re.search(told, row.reason), row.reason


def test_a_reason_that_text_columns_cannot_hold_is_spelled_out() -> None:
    intake = Intake()
    intake.refuse(1, PLACE, "nul \x00 surrogate \ud800", b"")
    assert intake.poison[0].reason == "nul \\x00 surrogate ?"


def test_the_last_closing_of_a_gap_speaks_for_all_and_decides_how_it_counts() -> None:
    rows = intake_of(
        closed(1, "g", remaining=3),
        closed(2, "h", remaining=1, closed_by="late_arrival"),
        closed(3, "g", remaining=0),
        closed(4, "i", remaining=9, closed_by="reset"),
    ).findings
    assert [(row.gap_id, row.remaining) for row in closings(rows)] == [("g", 0), ("h", 1), ("i", 9)]
    assert tally(rows) == [
        {"source": "cme", "type": "gap_closed", "outcome": "fill", "findings": 1},
        {"source": "cme", "type": "gap_closed", "outcome": "partial", "findings": 2},
        {"source": "cme", "type": "gap_closed", "outcome": "reset", "findings": 1},
    ]


numbers = st.integers(0, 40)
ranges = st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair)))


@given(ranges, st.lists(ranges, max_size=8))
def test_what_is_missing_is_what_did_not_come(
    gap: tuple[int, int], came: list[tuple[int, int]]
) -> None:
    first, last = gap
    left = missing_ranges(first, last, came)
    arrived = {number for begin, end in came for number in range(begin, end + 1)}
    expected = [number for number in range(first, last + 1) if number not in arrived]
    assert [n for begin, end in left for n in range(begin, end + 1)] == expected
    assert all(begin <= end for begin, end in left)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(left))


any_event = st.builds(
    OrderingEvent,
    id=st.text(max_size=5),
    type=st.sampled_from(["gap_opened", "gap_closed", "repeat", "epoch_changed"]),
    partition=st.integers(0, 2),
    position=st.integers(-1, 2**63),
    instrument=st.text(max_size=3),
    source=st.text(max_size=3),
    first=st.integers(-1, 2**64),
    last=st.integers(-1, 2**64),
    events=st.integers(-1, 2**64),
    epoch=st.integers(-1, 2**32),
    ts_event_ns=st.integers(-1, 2**63),
    detected_at_ns=st.integers(-1, 2**63),
    gap_id=st.text(max_size=2),
    closed_by=st.sampled_from(["", "fill", "reset"]),
)


@given(st.lists(any_event, max_size=5))
def test_every_finding_is_either_a_row_or_poison(events: list[OrderingEvent]) -> None:
    intake = intake_of(*events)
    assert len(intake.findings) + len(intake.poison) == len(events) or (
        # An encoder may write what the decoder refuses; then all of it is kept as one.
        [row.finding for row in intake.poison] == [WHOLE_MESSAGE]
    )
