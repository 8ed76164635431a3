"""Groups of frames of any kind: every view gets what it is to get, in order, over any crash.

Frames of several kinds give the views the same as frames of one kind each.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from events import logs, trades
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.operators.group import FrameGroup, LogGroup, MixedGroup, merged
from functions.operators.render import render
from functions.operators.route import Router
from functions.operators.sequence import with_sequences
from marketdata.filters import compile_filter
from marketdata.frames import frame_kind, read_frame
from marketdata.mixed import MIXED, mixed_batch
from marketdata.plans import Delivery, View, ViewSpec, compile_plan, view_of
from marketdata.splitting import split_rows
from marketdata.view_history import placed_runs

FILTERS = [
    "",
    "instrument IN ('A', 'C')",
    "kind = 'quote' OR price > 187.2505",
    "instrument = 'B' AND sequence > 2 AND NOT kind = 'trade'",
]
TOGETHER = Delivery(kinds="together")


APART = Delivery()


def spec(sql: str, delivery: Delivery = TOGETHER) -> ViewSpec:
    one = compile_filter(sql)
    return ViewSpec(filter=one.canonical, predicate=one.to_json(), delivery=delivery)


ROUTER = Router(
    compile_plan(
        1,
        [ViewSpec(), *(spec(sql, one) for sql in FILTERS for one in (TOGETHER, APART))],
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
        (Item(1000 * number), frame_kind(batch, mixed=True), batch)
        for number, batch in enumerate(frames, start=1)
    ]
    sent: Sent = []
    made = MixedGroup[Item] if view.delivery.together else FrameGroup[Item]
    for group in merged(read, made, max_rows=most, max_bytes=1 << 30):
        batch = group.batch()
        for routed, selected in group.routed(batch, ROUTER, {}):
            if routed is not view:
                continue
            runs = group.runs_after(behind, selected, max_rows=rows, max_message_rows=message)
            for _, numbers, place in runs:
                piece = batch if numbers is None else next(split_rows(batch, [numbers]))
                sent.append((place, read_frame(render(view, piece).messages[0])))
    return sent


def events_of(batch: pa.RecordBatch) -> list[Event]:
    kinds = [frame_kind(batch, mixed=True)] * batch.num_rows
    if MIXED in kinds:
        kinds = batch["kind"].to_pylist()
    columns = (batch[name].to_pylist() for name in ("instrument", "sequence"))
    return list(zip(kinds, *columns, strict=True))


def passing(frames: list[pa.RecordBatch], view: View) -> list[Event]:
    """What the view's filter lets pass, frame by frame."""
    found: list[Event] = []
    for batch in frames:
        one = ROUTER.bound.get(view.id)
        kept = batch if one is None else batch.filter(pa.array(one.mask(batch)))
        names, numbers = kept["instrument"].to_pylist(), kept["sequence"].to_pylist()
        found += [(frame_kind(batch), *pair) for pair in zip(names, numbers, strict=True)]
    return found


def joined_at(frames: list[pa.RecordBatch], cuts: set[int]) -> list[pa.RecordBatch]:
    """The same log in frames of several kinds: a frame ends where a cut says so."""
    log: list[list[tuple[str, pa.RecordBatch]]] = [[]]
    for number, batch in enumerate(frames):
        if number in cuts and log[-1]:
            log.append([])
        log[-1].append((frame_kind(batch), batch))
    return [run[0][1] if len(run) == 1 else mixed_batch(run) for run in log]


sizes = st.integers(1, 6)


@settings(max_examples=60)
@given(
    logs(),
    st.sets(st.integers(1, 7)),
    st.sampled_from(FILTERS),
    st.sampled_from([TOGETHER, APART]),
    st.integers(1, 20),
    sizes,
    sizes,
    st.data(),
)
def test_a_view_gets_its_rows_in_the_order_of_the_log_wherever_it_was_cut_off(
    singles: list[pa.RecordBatch],
    cuts: set[int],
    sql: str,
    delivery: Delivery,
    most: int,
    message: int,
    rows: int,
    data: st.DataObject,
) -> None:
    view = ROUTER.views[view_of(spec(sql, delivery)).id]
    expected = passing(singles, view)
    frames = joined_at(singles, cuts)

    sent = sent_to(view, frames, -1, most=most, message=message, rows=rows)

    assert [event for _, batch in sent for event in events_of(batch)] == expected
    places = [place for place, _ in sent]
    assert places == sorted(set(places))
    if not delivery.together:
        assert all(frame_kind(batch) for _, batch in sent), "messages of one kind"
    for _, batch in sent:
        names = batch["instrument"]
        assert set(names.dictionary.to_pylist()) == set(names.to_pylist()), "names what it holds"

    stored = data.draw(st.integers(0, len(sent)), label="stored")
    behind = sent[stored - 1][0] if stored else -1
    other = data.draw(st.integers(1, 20), label="most rows of a group, later")
    rest = sent_to(view, frames, behind, most=other, message=message, rows=rows)
    assert [e for _, batch in sent[:stored] + rest for e in events_of(batch)] == expected


@settings(max_examples=20)
@given(logs(), st.sets(st.integers(1, 7)))
def test_places_of_runs_are_found_again_in_the_log(
    singles: list[pa.RecordBatch], cuts: set[int]
) -> None:
    """What a consumer makes again from the log begins and ends where the messages did."""
    view = ROUTER.views[view_of(spec("", APART)).id]
    frames = joined_at(singles, cuts)
    sent = sent_to(view, frames, -1, most=1, message=100, rows=100)
    found = [
        (place, events_of(run))
        for number, frame in enumerate(frames, start=1)
        for place, run in placed_runs(1000 * number, frame)
    ]
    assert found == [(place, events_of(batch)) for place, batch in sent]


@settings(max_examples=30)
@given(logs(), st.sets(st.integers(1, 7)), st.integers(1, 20))
def test_frames_for_the_log_are_merged_in_their_order(
    singles: list[pa.RecordBatch], cuts: set[int], most: int
) -> None:
    frames = joined_at(singles, cuts)
    read = [(Item(n), frame_kind(batch, mixed=True), batch) for n, batch in enumerate(frames)]
    groups = list(merged(read, LogGroup[Item], max_rows=most, max_bytes=1 << 30))

    assert [item.position for group in groups for item in group.items] == [*range(len(frames))]
    batches = [group.batch() for group in groups]
    assert [group.kind for group in groups] == [frame_kind(b, mixed=True) for b in batches]
    assert [e for batch in batches for e in events_of(batch)] == [
        e for batch in singles for e in events_of(batch)
    ]
    assert all(g.rows <= most or len(g.items) == 1 for g in groups)


@pytest.mark.parametrize("together", [False, True])
def test_only_views_of_the_one_sort_are_asked(together: bool) -> None:
    found = [view for view, _ in ROUTER.route(sequenced("AB"), "trade", together=together)]
    assert {view.delivery.together for view in found} == {together}


def sequenced(names: str) -> pa.RecordBatch:
    numbers = np.ones(len(names), np.uint64)
    return with_sequences(trades(list(names)), "trade", numbers, epoch=1, ts_sequenced_ns=1)


def test_each_frame_can_be_had_alone() -> None:
    frames = [(Item(n), "trade", pa.record_batch({"n": [n]})) for n in (1, 2)]
    for made in (FrameGroup, LogGroup, MixedGroup):
        [group] = merged(frames, made, max_rows=10, max_bytes=1 << 20)
        singles = list(group.singles())
        assert [single.items for single in singles] == [[Item(1)], [Item(2)]]
        assert {type(single) for single in singles} == {type(group)}
        assert type(group) is made
