"""Gaps on a real broker: seen at once by heartbeats, filled where history is, told where it is not.

Losses are planted for real: frames that were never written, cursors that were moved, a copy of a
view without some of its messages, a log that has been truncated.
"""

import urllib.request
from collections.abc import Iterator
from typing import Any

import pulsar
import pyarrow as pa
import pytest
from local_runtime import Cluster, LocalInstance, eventually

from functions.distributor import DistributorFunction
from marketdata.aio import AsyncConsumer
from marketdata.consumer import Consumer, ContinuityBroken, Frame, GapFill
from marketdata.continuity import EpochChange, Finding, Gap, GapFilled, GapNotFilled
from marketdata.control_frames import NEXT_SEQUENCES
from marketdata.filters import compile_filter
from marketdata.formats import get_format
from marketdata.frames import encode_frame, frame_properties
from marketdata.liveness import Silence
from marketdata.plans import (
    PLAN_KEY,
    Plan,
    View,
    ViewSpec,
    compile_plan,
    encode_plan,
    view_of,
)
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.topics import partition_topic
from marketdata.transformations import Transformation

pytestmark = pytest.mark.integration

NAMES = ("GAP0", "GAP1", "GAP2")
CHEAP = "price < 6 AND instrument <> 'GAP1'"
NARROW = Transformation(select=("instrument", "sequence", "price"), rename={"price": "px"})


@pytest.fixture
def cluster(stack: Any) -> Iterator[Cluster]:
    cluster = Cluster(stack.service_url, stack.admin_url)
    yield cluster
    cluster.client.close()


@pytest.fixture
def view_topic(cluster: Cluster) -> str:
    return cluster.create_view("v")


def events(first: int, count: int) -> pa.RecordBatch:
    """Numbers first…first+count-1, going round the instruments; each has its number as price."""
    return pa.RecordBatch.from_pylist(
        [
            {
                "instrument": NAMES[number % len(NAMES)],
                "venue": "XNAS",
                "source": "test",
                "ts_event": number,
                "ts_publish": number,
                "sequence": number // len(NAMES) + 1,
                "epoch": 1,
                "ts_sequenced": number,
                "price": number % 10 * 10**9,
            }
            for number in range(first, first + count)
        ],
        schema=SEQUENCED_SCHEMAS["trade"],
    )


def deliver(
    cluster: Cluster, topic: str, *frames: tuple[int, int], format_name: str = "arrow"
) -> None:
    """Write frames of (first delivery sequence, count) to partition 0 as the distributor does."""
    for first, count in frames:
        batch = events(first - 1, count)
        properties = frame_properties(batch, "trade") | {
            "view": "v",
            "delivery_sequence": str(first),
            "format": format_name,
        }
        data = get_format(format_name).encode(batch)
        cluster.send(topic, 0, data, properties=properties)


def heartbeat(
    cluster: Cluster, topic: str, following: int, *, partition: int = 0, **properties: str
) -> None:
    """Write a heartbeat of a view."""
    properties = {
        "kind": "heartbeat",
        "count": "0",
        "view": "v",
        "delivery_sequence": str(following),
        "format": "json",
        **properties,
    }
    cluster.send(topic, partition, b"", properties=properties)


def heartbeat_of_log(cluster: Cluster, topic: str, rows: list[dict[str, Any]]) -> None:
    data = encode_frame(pa.RecordBatch.from_pylist(rows, schema=NEXT_SEQUENCES)).to_pybytes()
    cluster.send(topic, 0, data, properties={"kind": "heartbeat", "count": "0"})


def read(consumer: Consumer, count: int) -> list[Frame]:
    """`count` frames, and what comes right behind them."""
    frames: list[Frame] = []
    while (frame := consumer.receive(20 if len(frames) < count else 1)) is not None:
        frames.append(frame)
    return frames


def firsts(frames: list[Frame]) -> list[tuple[int | None, bool]]:
    return [(frame.delivery_sequence, frame.filled) for frame in frames]


def contents(frames: list[Frame]) -> list[dict[str, Any]]:
    return [row for frame in frames for row in frame.batch.to_pylist()]


def message_ids(cluster: Cluster, topic: str) -> list[pulsar.MessageId]:
    return [message.message_id() for message in cluster.read_all(partition_topic(topic, 0))]


def move_cursor(consumer: Consumer, message_id: pulsar.MessageId) -> None:
    """Move the subscription behind the consumer's back, as an operator does."""
    consumer._consumer.seek(message_id)


def admin(admin_url: str, method: str, topic: str, call: str) -> None:
    path = topic.removeprefix("persistent://")
    request = urllib.request.Request(
        f"{admin_url}/admin/v2/persistent/{path}/{call}", method=method
    )
    urllib.request.urlopen(request, timeout=30).close()


def test_a_heartbeat_shows_a_loss_at_the_end_of_a_burst(cluster: Cluster, view_topic: str) -> None:
    deliver(cluster, view_topic, (1, 5), (6, 5))
    heartbeat(cluster, view_topic, 11)
    heartbeat(cluster, view_topic, 16)
    heartbeat(cluster, view_topic, 16)
    deliver(cluster, view_topic, (16, 5))
    found: list[Finding] = []
    with Consumer(cluster.client, view_topic, "s", on_gap=found.append) as consumer:
        assert firsts(read(consumer, 3)) == [(1, False), (6, False), (16, False)]
        statistics = consumer.statistics()
    assert found == [Gap(0, "view:v", 0, 11, 15)]
    assert (statistics.gaps, statistics.heartbeats, statistics.events) == (1, 3, 15)
    assert statistics.last_heartbeat_at is not None
    with Consumer(cluster.client, view_topic, "s") as consumer:
        assert read(consumer, 0) == []  # control frames were acknowledged as well


def test_control_frames_are_handed_out_on_request(cluster: Cluster, view_topic: str) -> None:
    deliver(cluster, view_topic, (1, 5))
    heartbeat(cluster, view_topic, 6)
    with Consumer(
        cluster.client, view_topic, "s", include_control=True, auto_ack=False
    ) as consumer:
        frames = read(consumer, 2)
        assert [frame.is_control for frame in frames] == [False, True]
        assert list(frames[1].events()) == []
        consumer.ack(frames[0])
    with Consumer(cluster.client, view_topic, "s", include_control=True) as consumer:
        assert [frame.is_control for frame in read(consumer, 1)] == [True]


def test_a_strict_consumer_stops_at_a_heartbeat_that_shows_a_loss(
    cluster: Cluster, view_topic: str
) -> None:
    deliver(cluster, view_topic, (1, 5))
    heartbeat(cluster, view_topic, 9)
    deliver(cluster, view_topic, (9, 5))
    with Consumer(cluster.client, view_topic, "s", strict=True) as consumer:
        assert consumer.receive(20) is not None
        with pytest.raises(ContinuityBroken, match="first=6, last=8") as raised:
            consumer.receive(20)
        assert raised.value.frame.is_control
        consumer.ack(raised.value.frame)
        assert firsts(read(consumer, 1)) == [(9, False)]


def test_heartbeats_of_the_log_name_the_next_of_each_instrument(cluster: Cluster) -> None:
    log = cluster.topics["sequenced"]
    cluster.send(log, 0, encode_frame(events(0, 6)).to_pybytes())
    heartbeat_of_log(
        cluster,
        log,
        [
            {"instrument": "GAP0", "sequence": 3, "epoch": 1},
            {"instrument": "GAP1", "sequence": 5, "epoch": 1},
            {"instrument": "NEVER SEEN", "sequence": 9, "epoch": 1},
        ],
    )
    found: list[Finding] = []
    with Consumer(cluster.client, log, "s", contiguous=True, on_gap=found.append) as consumer:
        assert len(read(consumer, 1)) == 1
    assert found == [Gap(0, "GAP1", 1, 3, 4)]


def test_an_epoch_frame_is_told_with_its_reason(cluster: Cluster, view_topic: str) -> None:
    deliver(cluster, view_topic, (8, 2))
    heartbeat(
        cluster,
        view_topic,
        1,
        kind="epoch",
        delivery_epoch="77",
        epoch="77",
        reason="retention removed all",
    )
    found: list[Finding] = []
    with Consumer(cluster.client, view_topic, "s", strict=True, on_gap=found.append) as consumer:
        assert len(read(consumer, 1)) == 1
        assert consumer.statistics().epochs == 1
    assert found == [EpochChange(0, "view:v", 77, 1, 1, "retention removed all")]


def test_what_a_moved_cursor_left_out_is_read_from_the_view(
    cluster: Cluster, view_topic: str
) -> None:
    deliver(cluster, view_topic, (1, 5), (6, 5))
    found: list[Finding] = []
    with Consumer(
        cluster.client, view_topic, "s", strict=True, fill=GapFill(), on_gap=found.append
    ) as consumer:
        assert len(read(consumer, 2)) == 2
        deliver(cluster, view_topic, (11, 5), (16, 5), (21, 5))
        heartbeat(cluster, view_topic, 26)
        deliver(cluster, view_topic, (26, 5))
        ids = message_ids(cluster, view_topic)
        move_cursor(consumer, ids[4])
        frames = read(consumer, 4)
        assert firsts(frames) == [(11, True), (16, True), (21, False), (26, False)]
        assert [frame.batch for frame in frames[:2]] == [events(10, 5), events(15, 5)]
        assert (frames[0].findings, frames[1].findings) == ((), ())
        filled = GapFilled(0, "view:v", 0, 11, 20)
        assert frames[2].findings == (filled,)
        assert found == [Gap(0, "view:v", 0, 11, 20), filled]
        statistics = consumer.statistics()
        assert (statistics.filled_events, statistics.filled_frames) == (10, 2)
        assert (statistics.events, statistics.gaps, statistics.gaps_not_filled) == (30, 1, 0)
        # The cursor goes back: all is known already, the filled ones too.
        move_cursor(consumer, ids[0])
        assert read(consumer, 0) == []


def test_only_the_missing_part_of_a_message_is_taken(cluster: Cluster, view_topic: str) -> None:
    deliver(cluster, view_topic, (1, 5), (1, 9), (12, 3))
    heartbeat(cluster, view_topic, 17)
    with Consumer(cluster.client, view_topic, "s", fill=GapFill()) as consumer:
        first = consumer.receive(20)
        assert first is not None
        move_cursor(consumer, message_ids(cluster, view_topic)[3])
        frames = read(consumer, 2)
        found = consumer.statistics()
    assert firsts(frames) == [(6, True), (12, True)]
    assert contents(frames) == [*events(5, 4).to_pylist(), *events(11, 3).to_pylist()]
    assert (found.gaps, found.gaps_not_filled) == (1, 2)  # 10…11 and 15…16


def test_instruments_of_the_log_are_filled_from_it(cluster: Cluster) -> None:
    log = cluster.topics["sequenced"]
    frames = [encode_frame(events(first, 6)).to_pybytes() for first in range(0, 30, 6)]
    cluster.send(log, 0, frames[0])
    found: list[Finding] = []
    with Consumer(
        cluster.client, log, "s", contiguous=True, fill=GapFill(), strict=True, on_gap=found.append
    ) as consumer:
        assert len(read(consumer, 1)) == 1
        cluster.send(log, 0, *frames[1:])
        move_cursor(consumer, message_ids(cluster, log)[4])
        got = read(consumer, 4)
    assert [frame.filled for frame in got] == [True, True, True, False]
    assert [frame.batch for frame in got] == [events(first, 6) for first in (6, 12, 18, 24)]
    assert found == [
        *(Gap(0, name, 1, 3, 8) for name in NAMES),
        *(GapFilled(0, name, 1, 3, 8) for name in NAMES),
    ]


def test_filled_frames_can_be_given_back_and_acknowledged(
    cluster: Cluster, view_topic: str
) -> None:
    deliver(cluster, view_topic, (1, 5), (6, 5), (11, 5))
    with Consumer(cluster.client, view_topic, "s", fill=GapFill(), auto_ack=False) as consumer:
        first = consumer.receive(20)
        assert first is not None
        move_cursor(consumer, message_ids(cluster, view_topic)[2])
        filled = consumer.receive(20)
        assert filled is not None
        assert filled.filled
        consumer.nack(filled)
        rest = read(consumer, 2)
        assert [(f.delivery_sequence, f.filled, f.redelivered) for f in rest] == [
            (11, False, False),
            (6, True, True),
        ]
        consumer.ack_cumulative(rest[0])
        consumer.ack(rest[1])
    with Consumer(cluster.client, view_topic, "s") as consumer:
        assert read(consumer, 0) == []


class DistributedView:
    """A view as the real distributor writes it from a log, and a copy that lacks messages.

    The log has `parts` times 20 events; the distributor has written each part before the next one.
    What comes behind part `new_ledger_after` is stored apart, so that the part before can go.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        parts: int = 6,
        format_name: str = "arrow",
        admin_url: str = "",
        new_ledger_after: int | None = None,
    ) -> None:
        self.cluster = cluster
        self.log = cluster.topics["sequenced"]
        predicate = compile_filter(CHEAP)
        spec = ViewSpec(
            filter=predicate.canonical,
            predicate=predicate.to_json(),
            transformation=NARROW,
            format=format_name,
        )
        self.id = view_of(spec).id
        topic = cluster.create_view(self.id)
        self._publish_plan(spec, topic)
        instance = LocalInstance(cluster, DistributorFunction, "sequenced")
        self.rows: list[pa.RecordBatch] = []
        self.written = 0
        try:
            for part in range(1, parts + 1):
                self._write(topic)
                if part == new_ledger_after:
                    admin(admin_url, "PUT", partition_topic(self.log, 0), "unload")
        finally:
            instance.close()
        self.messages = cluster.read(partition_topic(topic, 0))
        self.copy = cluster.create_view("copy")

    def _publish_plan(self, spec: ViewSpec, topic: str) -> None:
        plan = compile_plan(1, [spec], created_at_ns=1, correlation_id="test")
        (view,) = plan.views
        parts = {name: getattr(view, name) for name in ViewSpec.__struct_fields__}
        plan = Plan(1, plan.digest, 1, "test", (View(**parts, id=view.id, topic=topic),))
        producer = self.cluster.client.create_producer(self.cluster.topics["plans"])
        producer.send(encode_plan(plan), partition_key=PLAN_KEY)
        producer.close()

    def _write(self, topic: str) -> None:
        first = self.written
        halves = [events(first, 10), events(first + 10, 10)]
        self.cluster.send(self.log, 0, *(encode_frame(half).to_pybytes() for half in halves))
        self.written += 20
        chosen = [half.filter(pa.array(compile_filter(CHEAP).mask(half))) for half in halves]
        self.rows += [NARROW.apply(rows) for rows in chosen]
        total = sum(rows.num_rows for rows in self.rows)

        def delivered() -> bool:
            messages = self.cluster.read(partition_topic(topic, 0))
            return sum(int(message.properties()["count"]) for message in messages) == total

        eventually(delivered)

    def copy_without(self, *lost: int) -> list[tuple[int, int]]:
        """Copy the view's messages but these; gives the delivery sequences of those."""
        for number, message in enumerate(self.messages):
            if number not in lost:
                self.cluster.send(
                    self.copy, 0, message.data(), properties=dict(message.properties())
                )
        return [
            (first, first + int(properties["count"]) - 1)
            for properties in (self.messages[number].properties() for number in lost)
            for first in (int(properties["delivery_sequence"]),)
        ]

    def heartbeat(self) -> None:
        """A heartbeat behind all messages of the view."""
        last = self.messages[-1].properties()
        heartbeat(
            self.cluster,
            self.copy,
            int(last["delivery_sequence"]) + int(last["count"]),
            view=self.id,
            delivery_epoch=last["delivery_epoch"],
            position=last["position"],
        )

    def events(self) -> list[dict[str, Any]]:
        """All events that the view promises."""
        return pa.Table.from_batches(self.rows).to_pylist()

    def consumer(self, fill: GapFill | None, **options: Any) -> Consumer:
        return Consumer(
            self.cluster.client, self.copy, "s", fill=fill, transformation=NARROW, **options
        )


@pytest.mark.parametrize("format_name", ["arrow", "json", "avro", "csv"])
def test_what_a_view_lost_is_made_again_from_the_log(cluster: Cluster, format_name: str) -> None:
    view = DistributedView(cluster, format_name=format_name)
    last = len(view.messages) - 1
    assert last >= 4
    lost = view.copy_without(1, 3, last)
    view.heartbeat()
    found: list[Finding] = []
    fill = GapFill(filter=CHEAP, log=view.log)
    with view.consumer(fill, strict=True, on_gap=found.append) as consumer:
        frames = read(consumer, len(view.messages))
        statistics = consumer.statistics()
    assert contents(frames) == view.events()
    numbered = [
        frame.delivery_sequence + row
        for frame in frames
        for row in range(frame.batch.num_rows)
        if frame.delivery_sequence is not None
    ]
    assert numbered == list(range(1, len(view.events()) + 1))
    assert [frame.findings for frame in frames if frame.filled] == [()] * statistics.filled_frames
    assert statistics.filled_events == sum(b - a + 1 for a, b in lost)
    assert [type(finding) for finding in found] == [Gap, GapFilled] * 3
    assert [(gap.first, gap.last) for gap in found[::2]] == lost
    made = next(frame for frame in frames if frame.filled)
    with pytest.raises(ValueError, match="filled from the log"):
        consumer.ack_cumulative(made)


def test_part_from_the_view_part_from_the_log(cluster: Cluster) -> None:
    view = DistributedView(cluster)
    last = len(view.messages) - 1
    view.copy_without(2)
    with view.consumer(GapFill(filter=CHEAP, log=view.log), strict=True) as consumer:
        first = consumer.receive(20)
        assert first is not None
        # Without message 2 the copy holds 0 1 3 4 …; the cursor leaves out 1 and 3.
        move_cursor(consumer, message_ids(cluster, view.copy)[3])
        frames = [first, *read(consumer, last)]
    assert contents(frames) == view.events()
    assert [frame.filled for frame in frames[:5]].count(True) >= 3


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (None, "give `GapFill` the view's filter"),
        ("price < 2", "lets .* pass"),
        ("", "lets more pass"),
    ],
)
def test_nothing_is_guessed_without_the_views_filter(
    cluster: Cluster, sql: str | None, says: str
) -> None:
    view = DistributedView(cluster, parts=3)
    ((first, last),) = view.copy_without(1)
    fill = GapFill(filter=sql, log=view.log)
    with view.consumer(fill, strict=True) as consumer:
        assert consumer.receive(20) is not None
        with pytest.raises(ContinuityBroken, match=says) as raised:
            consumer.receive(20)
        (finding,) = raised.value.frame.findings
        assert isinstance(finding, GapNotFilled)
        assert (finding.first, finding.last) == (first, last)
        assert consumer.statistics().gaps_not_filled == 1
        assert consumer.statistics().filled_events == 0


def test_what_stands_beside_a_gap_must_name_its_position(cluster: Cluster, view_topic: str) -> None:
    deliver(cluster, view_topic, (1, 5), (8, 5))
    found: list[Finding] = []
    fill = GapFill(filter="", log=cluster.topics["sequenced"])
    with Consumer(cluster.client, view_topic, "s", fill=fill, on_gap=found.append) as consumer:
        assert len(read(consumer, 2)) == 2
    assert isinstance(found[1], GapNotFilled)
    assert "do not name their position" in found[1].reason


def test_a_broken_message_within_a_gap_leaves_it_open_and_no_more(
    cluster: Cluster, view_topic: str
) -> None:
    deliver(cluster, view_topic, (1, 5))
    found: list[Finding] = []
    with Consumer(cluster.client, view_topic, "s", fill=GapFill(), on_gap=found.append) as consumer:
        assert consumer.receive(20) is not None
        cluster.send(view_topic, 0, b"rubbish")
        heartbeat(cluster, view_topic, 6)
        deliver(cluster, view_topic, (11, 5), (16, 5))
        move_cursor(consumer, message_ids(cluster, view_topic)[4])
        assert firsts(read(consumer, 2)) == [(11, True), (16, False)]
    assert [(type(f), f.first, f.last) for f in found] == [
        (Gap, 6, 15),
        (GapNotFilled, 6, 10),
    ]


def test_a_member_that_takes_over_reads_on_over_control_frames(
    cluster: Cluster, view_topic: str
) -> None:
    deliver(cluster, view_topic, (1, 5))
    heartbeat(cluster, view_topic, 6)
    found: list[Finding] = []
    options: dict[str, Any] = {"group": True, "strict": True, "fill": GapFill()}
    with Consumer(
        cluster.client, view_topic, "s", consumer_name="b", on_gap=found.append, **options
    ) as one:
        assert firsts(read(one, 1)) == [(1, False)]
        # The name that sorts first takes the partition; it reads on and leaves.
        with Consumer(cluster.client, view_topic, "s", consumer_name="a", **options) as other:
            deliver(cluster, view_topic, (6, 5))
            heartbeat(cluster, view_topic, 11)
            deliver(cluster, view_topic, (11, 5))
            taken = firsts(read(other, 2))
        heartbeat(cluster, view_topic, 16)
        deliver(cluster, view_topic, (16, 5))
        rest = firsts(read(one, 3 - len(taken)))
        statistics = one.statistics()
    assert [*taken, *rest] == [(6, False), (11, False), (16, False)]
    assert found == []
    assert statistics.handovers == (1 if taken else 0)


def test_filling_is_bounded_in_events_and_time(cluster: Cluster) -> None:
    view = DistributedView(cluster, parts=3)
    view.copy_without(1)
    for fill, says in (
        (GapFill(filter=CHEAP, log=view.log, max_events=1), "max_events=1"),
        (GapFill(filter=CHEAP, log=view.log, timeout_s=0.0), "in time"),
    ):
        found: list[Finding] = []
        with view.consumer(fill, on_gap=found.append) as consumer:
            assert len(read(consumer, len(view.messages) - 1)) == len(view.messages) - 1
            consumer.seek("earliest")
        assert [type(finding) for finding in found] == [Gap, GapNotFilled]
        assert isinstance(found[1], GapNotFilled)
        assert says in found[1].reason


def test_what_retention_has_removed_is_told_and_the_rest_is_filled(
    stack: Any, cluster: Cluster
) -> None:
    view = DistributedView(cluster, parts=5, admin_url=stack.admin_url, new_ledger_after=2)
    last = len(view.messages) - 1
    lost = view.copy_without(1, last - 1)
    admin(stack.admin_url, "DELETE", partition_topic(view.log, 0), "truncate")
    found: list[Finding] = []
    fill = GapFill(filter=CHEAP, log=view.log)
    with view.consumer(fill, on_gap=found.append) as consumer:
        frames = read(consumer, last)
    assert [type(finding) for finding in found] == [Gap, GapNotFilled, Gap, GapFilled]
    assert [(gap.first, gap.last) for gap in found[1::2]] == lost
    assert isinstance(found[1], GapNotFilled)
    assert f"retention has removed them from {partition_topic(view.log, 0)}" in found[1].reason
    first, behind = lost[0]
    assert contents(frames) == view.events()[: first - 1] + view.events()[behind:]


def test_a_partition_that_says_nothing_is_told(cluster: Cluster, view_topic: str) -> None:
    silences: list[Silence] = []
    with Consumer(
        cluster.client, view_topic, "s", heartbeat_timeout_s=1.0, on_silence=silences.append
    ) as consumer:
        assert consumer.receive(2.5) is None
        assert [silence.partition for silence in silences] == [None]
        heartbeat(cluster, view_topic, 1, partition=1)
        deliver(cluster, view_topic, (1, 5))
        assert consumer.receive(20) is not None
        assert consumer.receive(3) is None
    assert sorted(
        silence.partition for silence in silences[1:] if silence.partition is not None
    ) == [0, 1]


async def test_asyncio_consumers_fill_as_well(
    stack: Any, cluster: Cluster, view_topic: str
) -> None:
    deliver(cluster, view_topic, (1, 5), (6, 5))
    found: list[Finding] = []
    async with await AsyncConsumer.open(
        stack.service_url, view_topic, "s", fill=GapFill(), on_gap=found.append, auto_ack=False
    ) as consumer:
        heartbeat(cluster, view_topic, 11)
        deliver(cluster, view_topic, (16, 5))
        got = [frame async for frame in consumer.frames(3)]
        for frame in got:
            await consumer.ack(frame)
        assert consumer.statistics().heartbeats == 1
    assert firsts(got) == [(1, False), (6, False), (16, False)]
    assert [type(finding) for finding in found] == [Gap, GapNotFilled]
