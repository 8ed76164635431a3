"""Groups of frames of any kind: every view gets the rows that it gets frame by frame, in order."""

from dataclasses import dataclass

import pyarrow as pa
from events import batches
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.operators.group import FrameGroup, merged
from functions.operators.render import render
from functions.operators.route import Router
from marketdata.filters import compile_filter
from marketdata.frames import frame_kind, read_frame
from marketdata.plans import Delivery, View, ViewSpec, compile_plan, view_of
from marketdata.splitting import split_rows

TOGETHER = Delivery(kinds="together")


def spec(sql: str) -> ViewSpec:
    one = compile_filter(sql)
    return ViewSpec(filter=one.canonical, predicate=one.to_json(), delivery=TOGETHER)


SPECS = [
    ViewSpec(delivery=TOGETHER),
    spec("instrument IN ('A', 'C')"),
    spec("kind = 'quote' OR price > 0"),
    spec("instrument = 'B' AND sequence > 5 AND NOT kind = 'trade'"),
]
ROUTER = Router(compile_plan(1, [*SPECS, ViewSpec()], created_at_ns=1))
FILTERS = {view.id: ROUTER.bound.get(view.id) for view in ROUTER.views.values()}


@dataclass(frozen=True)
class Item:
    position: int


logs = st.lists(
    st.sampled_from(["trade", "quote", "status"]).flatmap(
        lambda kind: batches(
            kind=kind, sequenced=True, max_rows=5, instruments=st.sampled_from(["A", "B", "C"])
        )
    ),
    min_size=1,
    max_size=8,
)

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
            if routed.id != view.id:
                continue
            runs = group.runs_after(behind, selected, max_rows=rows, max_message_rows=message)
            for _, numbers, place in runs:
                assert numbers is not None
                [piece] = split_rows(batch, [numbers])
                sent.append((place, read_frame(render(view, piece).data)))
    return sent


def keys(found: list[pa.RecordBatch]) -> list[tuple[object, ...]]:
    names = ("instrument", "sequence", "epoch", "venue")
    return [
        (kind, *row)
        for batch in found
        for kind, row in zip(
            batch["kind"].to_pylist()
            if "kind" in batch.schema.names
            else [frame_kind(batch)] * batch.num_rows,
            zip(*(batch[name].to_pylist() for name in names), strict=True),
            strict=True,
        )
    ]


@settings(max_examples=40)
@given(
    logs,
    st.sampled_from(SPECS),
    st.integers(1, 20),
    st.integers(1, 6),
    st.integers(1, 6),
    st.data(),
)
def test_a_view_gets_its_rows_in_the_order_of_the_log_wherever_it_was_cut_off(
    frames: list[pa.RecordBatch],
    chosen: ViewSpec,
    most: int,
    message: int,
    rows: int,
    data: st.DataObject,
) -> None:
    view = ROUTER.views[view_of(chosen).id]
    one = FILTERS[view.id]
    expected = keys(
        [batch if one is None else batch.filter(pa.array(one.mask(batch))) for batch in frames]
    )

    sent = sent_to(view, frames, -1, most=most, message=message, rows=rows)

    assert keys([batch for _, batch in sent]) == expected
    places = [place for place, _ in sent]
    assert places == sorted(set(places))

    stored = data.draw(st.integers(0, len(sent)), label="stored")
    behind = sent[stored - 1][0] if stored else -1
    other = data.draw(st.integers(1, 20), label="most rows of a group, later")
    rest = sent_to(view, frames, behind, most=other, message=message, rows=rows)
    assert keys([batch for _, batch in sent[:stored] + rest]) == expected


@settings(max_examples=10)
@given(logs)
def test_only_views_of_the_one_sort_are_asked(frames: list[pa.RecordBatch]) -> None:
    for batch in frames:
        for together in (False, True):
            found = ROUTER.route(batch, frame_kind(batch), together=together)
            assert {view.delivery.together for view, _ in found} <= {together}


def test_each_frame_can_be_had_alone() -> None:
    frames = [(Item(n), "trade", pa.record_batch({"n": [n]})) for n in (1, 2)]
    for together in (False, True):
        [group] = merged(frames, max_rows=10, max_bytes=1 << 20, together=together)
        singles = list(group.singles())
        assert [single.items for single in singles] == [[Item(1)], [Item(2)]]
        assert {type(single) for single in singles} == {type(group)}
        assert isinstance(group, FrameGroup)
