"""Groups of frames of any kind: every view gets what it is to get, in order, over any crash."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import pyarrow as pa
import pytest
from events import logs, trades
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.operators.group import FrameGroup, merged
from functions.operators.render import render
from functions.operators.route import Router
from functions.operators.sequence import with_sequences
from marketdata.filters import compile_filter
from marketdata.frames import frame_kind, read_frame
from marketdata.plans import Delivery, Manner, View, ViewSpec, compile_plan, view_of
from marketdata.splitting import split_rows

FILTERS = [
    "",
    "instrument IN ('A', 'C')",
    "kind = 'quote' OR price > 187.2505",
    "instrument = 'B' AND sequence > 2 AND NOT kind = 'trade'",
]
DELIVERIES = [Delivery(kinds="together"), Delivery(kinds="together", conflate_ms=100)]


def spec(sql: str, delivery: Delivery) -> ViewSpec:
    one = compile_filter(sql)
    return ViewSpec(filter=one.canonical, predicate=one.to_json(), delivery=delivery)


ROUTER = Router(
    compile_plan(
        1,
        [ViewSpec(), *(spec(sql, delivery) for sql in FILTERS for delivery in DELIVERIES)],
        created_at_ns=1,
    )
)


@dataclass(frozen=True)
class Item:
    position: int


Event = tuple[str, str, int]
"""Kind, instrument and sequence."""

Sent = list[tuple[int, pa.RecordBatch]]


def sent_to(
    view: View, frames: list[pa.RecordBatch], behind: int, *, most: int, message: int, rows: int
) -> Sent:
    """The messages of a view, each with its position."""
    read = [
        (Item(1000 * number), frame_kind(batch), batch)
        for number, batch in enumerate(frames, start=1)
    ]
    sent: Sent = []
    manner = view.delivery.manner
    for group in merged(read, max_rows=most, max_bytes=1 << 30, manner=manner, only={view.id}):
        batch = group.batch()
        for routed, selected in group.routed(batch, ROUTER, {}):
            assert routed is view
            for run in group.runs_after(behind, selected, max_rows=rows, max_message_rows=message):
                assert run.rows is not None
                [piece] = split_rows(batch, [run.rows])
                sent.append((run.place, read_frame(render(view, piece, further=run.further).data)))
    return sent


def events_of(batch: pa.RecordBatch) -> list[Event]:
    columns = (batch[name].to_pylist() for name in ("kind", "instrument", "sequence"))
    return list(zip(*columns, strict=True))


def passing(frames: list[pa.RecordBatch], view: View) -> list[Event]:
    """What the view's filter lets pass, frame by frame."""
    found: list[Event] = []
    for batch in frames:
        one = ROUTER.bound.get(view.id)
        kept = batch if one is None else batch.filter(pa.array(one.mask(batch)))
        names, numbers = kept["instrument"].to_pylist(), kept["sequence"].to_pylist()
        found += [(frame_kind(batch), *pair) for pair in zip(names, numbers, strict=True)]
    return found


sizes = st.integers(1, 6)


@settings(max_examples=40)
@given(logs(), st.sampled_from(FILTERS), st.integers(1, 20), sizes, sizes, st.data())
def test_a_view_gets_its_rows_in_the_order_of_the_log_wherever_it_was_cut_off(
    frames: list[pa.RecordBatch],
    sql: str,
    most: int,
    message: int,
    rows: int,
    data: st.DataObject,
) -> None:
    view = ROUTER.views[view_of(spec(sql, DELIVERIES[0])).id]
    expected = passing(frames, view)

    sent = sent_to(view, frames, -1, most=most, message=message, rows=rows)

    assert [event for _, batch in sent for event in events_of(batch)] == expected
    places = [place for place, _ in sent]
    assert places == sorted(set(places))

    stored = data.draw(st.integers(0, len(sent)), label="stored")
    behind = sent[stored - 1][0] if stored else -1
    other = data.draw(st.integers(1, 20), label="most rows of a group, later")
    rest = sent_to(view, frames, behind, most=other, message=message, rows=rows)
    assert [e for _, batch in sent[:stored] + rest for e in events_of(batch)] == expected


@settings(max_examples=40)
@given(logs(), st.sampled_from(FILTERS), st.integers(1, 20), st.data())
def test_a_conflated_view_gets_the_newest_event_and_what_it_stands_for(
    frames: list[pa.RecordBatch], sql: str, most: int, data: st.DataObject
) -> None:
    view = ROUTER.views[view_of(spec(sql, DELIVERIES[1])).id]
    expected = passing(frames, view)

    sent = sent_to(view, frames, -1, most=most, message=100, rows=100)
    stored = data.draw(st.integers(0, len(sent)), label="stored")
    behind = sent[stored - 1][0] if stored else -1
    other = data.draw(st.integers(1, 20), label="most rows of a group, later")
    sent = sent[:stored] + sent_to(view, frames, behind, most=other, message=100, rows=100)

    # Every event that passes is in exactly one range of its instrument and kind, and the ranges
    # of a kind of an instrument follow one another.
    left = {key: [e[2] for e in expected if e[:2] == key] for key in {e[:2] for e in expected}}
    for _, batch in sent:
        delivered = events_of(batch)
        assert len({event[:2] for event in delivered}) == len(delivered)
        assert delivered == sorted(delivered, key=expected.index)
        told = zip(batch["merged"].to_pylist(), batch["merged_from"].to_pylist(), strict=True)
        for (kind, name, sequence), (count, first) in zip(delivered, told, strict=True):
            waiting = left[kind, name]
            stands_for, left[kind, name] = waiting[:count], waiting[count:]
            assert (stands_for[0], stands_for[-1]) == (first, sequence)
    assert not any(left.values())


def test_all_that_waits_is_one_message_with_the_newest_of_each() -> None:
    view = ROUTER.views[view_of(spec("", DELIVERIES[1])).id]
    [(place, batch)] = sent_to(view, _log(["AAB", "BA", "A"]), -1, most=100, message=100, rows=100)
    assert place == 3000
    assert events_of(batch) == [("trade", "B", 2), ("trade", "A", 4)]
    assert batch["merged"].to_pylist() == [2, 4]
    assert batch["merged_from"].to_pylist() == [1, 1]


def _log(frames: list[str]) -> list[pa.RecordBatch]:
    seen: dict[str, int] = {}
    log = []
    for names in frames:
        numbers = []
        for name in names:
            seen[name] = seen.get(name, 0) + 1
            numbers.append(seen[name])
        batch = trades(list(names))
        log.append(
            with_sequences(batch, "trade", np.array(numbers, np.uint64), epoch=1, ts_sequenced_ns=1)
        )
    return log


@pytest.mark.parametrize("manner", ["apart", "together", "conflated"])
def test_only_views_of_the_one_manner_are_asked(manner: Manner) -> None:
    for batch in _log(["AB", "C"]):
        found = [view for view, _ in ROUTER.route(batch, "trade", manner=manner)]
        assert {view.delivery.manner for view in found} == {manner}


def test_each_frame_can_be_had_alone() -> None:
    frames = [(Item(n), "trade", pa.record_batch({"n": [n]})) for n in (1, 2)]
    for manner in get_args(Manner):
        [group] = merged(frames, max_rows=10, max_bytes=1 << 20, manner=manner)
        singles = list(group.singles())
        assert [single.items for single in singles] == [[Item(1)], [Item(2)]]
        assert {type(single) for single in singles} == {type(group)}
        assert isinstance(group, FrameGroup)
