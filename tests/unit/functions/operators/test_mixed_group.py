"""Groups of frames of any kind: every view gets what it is to get, in order, over any crash."""

from dataclasses import dataclass

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
from marketdata.plans import Delivery, View, ViewSpec, compile_plan, view_of
from marketdata.splitting import split_rows

FILTERS = [
    "",
    "instrument IN ('A', 'C')",
    "kind = 'quote' OR price > 187.2505",
    "instrument = 'B' AND sequence > 2 AND NOT kind = 'trade'",
]
TOGETHER = Delivery(kinds="together")


def spec(sql: str) -> ViewSpec:
    one = compile_filter(sql)
    return ViewSpec(filter=one.canonical, predicate=one.to_json(), delivery=TOGETHER)


ROUTER = Router(compile_plan(1, [ViewSpec(), *map(spec, FILTERS)], created_at_ns=1))


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
    for group in merged(read, max_rows=most, max_bytes=1 << 30, together=True):
        batch = group.batch()
        for routed, selected in group.routed(batch, ROUTER, {}):
            if routed is not view:
                continue
            runs = group.runs_after(behind, selected, max_rows=rows, max_message_rows=message)
            for _, numbers, place in runs:
                assert numbers is not None
                [piece] = split_rows(batch, [numbers])
                sent.append((place, read_frame(render(view, piece).messages[0])))
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
    view = ROUTER.views[view_of(spec(sql)).id]
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


@pytest.mark.parametrize("together", [False, True])
def test_only_views_of_the_one_sort_are_asked(together: bool) -> None:
    found = [view for view, _ in ROUTER.route(sequenced("AB"), "trade", together=together)]
    assert {view.delivery.together for view in found} == {together}


def sequenced(names: str) -> pa.RecordBatch:
    numbers = np.ones(len(names), np.uint64)
    return with_sequences(trades(list(names)), "trade", numbers, epoch=1, ts_sequenced_ns=1)


def test_each_frame_can_be_had_alone() -> None:
    frames = [(Item(n), "trade", pa.record_batch({"n": [n]})) for n in (1, 2)]
    for together in (False, True):
        [group] = merged(frames, max_rows=10, max_bytes=1 << 20, together=together)
        singles = list(group.singles())
        assert [single.items for single in singles] == [[Item(1)], [Item(2)]]
        assert {type(single) for single in singles} == {type(group)}
        assert isinstance(group, FrameGroup)
