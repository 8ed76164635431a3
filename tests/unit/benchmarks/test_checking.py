"""The consumer's checks find what is planted, however frames are gathered, and nothing else."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.checking import Arrived, DeliveryCheck, InstrumentOrder, Latencies, Tally
from benchmarks.consuming import Reader

TOPIC = "persistent://marketdata/delivery/view-{view}-partition-{partition}"


def _column(names: list[str]) -> pa.DictionaryArray:
    return pa.array(names).dictionary_encode().cast(pa.dictionary(pa.int16(), pa.utf8()))


def _numbers(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


class FakeMessage:
    """As much of a message as the checks look at."""

    def __init__(
        self,
        delivery: int,
        sequences: list[int],
        *,
        names: list[str] | None = None,
        count: int | None = None,
        view: str = "x",
        partition: int = 0,
        published: list[int] | None = None,
    ) -> None:
        rows = len(sequences)
        batch = pa.record_batch(
            {
                "instrument": _column(names or [f"P{partition}"] * rows),
                "sequence": pa.array(sequences, pa.uint64()),
                "ts_publish": pa.array(published or [100] * rows, pa.timestamp("ns", tz="UTC")),
            }
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        self._data = sink.getvalue().to_pybytes()
        self._properties = {
            "count": str(rows if count is None else count),
            "delivery_sequence": str(delivery),
        }
        self._topic = TOPIC.format(view=view, partition=partition)

    def data(self) -> bytes:
        return self._data

    def properties(self) -> dict[str, str]:
        return self._properties

    def topic_name(self) -> str:
        return self._topic


class FakeConsumer:
    """Notes what is acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: list[FakeMessage] = []

    def acknowledge_cumulative(self, message: FakeMessage) -> None:
        self.acknowledged.append(message)


def _checked(messages: list[FakeMessage], *, at_once: int = 100) -> Tally:
    tally, check = Tally(1), DeliveryCheck(1)
    for start in range(0, len(messages), at_once):
        check.take([Arrived(0, m, 1_000) for m in messages[start : start + at_once]], tally)
    return tally


@pytest.mark.parametrize("at_once", [1, 2, 100])
def test_contiguous_frames_are_counted_without_complaint(at_once: int) -> None:
    messages = [FakeMessage(5, [1, 2]), FakeMessage(7, [3]), FakeMessage(8, [4, 5])]
    tally = _checked(messages, at_once=at_once)
    assert (tally.of_view, tally.frames, tally.breaks) == ([5], 3, 0)
    assert tally.latencies.quantiles_ns((1.0,)) == [900]
    assert sum(tally.arrivals.values()) == 5


VIOLATIONS = [
    ([FakeMessage(1, [1]), FakeMessage(3, [2])], "delivery sequence 3 where 2 was due"),
    ([FakeMessage(1, [1]), FakeMessage(1, [2])], "delivery sequence 1 where 2 was due"),
    ([FakeMessage(1, [1]), FakeMessage(2, [3])], "an event out of"),
    ([FakeMessage(1, [2]), FakeMessage(2, [1])], "an event out of"),
    ([FakeMessage(1, [1, 1])], "an event out of"),
    ([FakeMessage(1, [2, 1])], "an event out of"),
    ([FakeMessage(1, [1, 5, 2, 7], names=["A", "B", "A", "B"])], "an event out of"),
    ([FakeMessage(1, [1], count=2)], "says 2 events, holds 1"),
    ([FakeMessage(1, [1]), FakeMessage(3, [], count=0)], "delivery sequence 3 where 2 was due"),
]


@pytest.mark.parametrize("at_once", [1, 100])
@pytest.mark.parametrize(("messages", "complaint"), VIOLATIONS)
def test_a_planted_violation_is_found(
    messages: list[FakeMessage], complaint: str, at_once: int
) -> None:
    tally = _checked(messages, at_once=at_once)
    assert tally.breaks == 1
    assert complaint in tally.first_breaks[0]


def test_partitions_are_counted_apart() -> None:
    messages = [
        FakeMessage(1, [1], partition=0),
        FakeMessage(9, [4], partition=1),
        FakeMessage(2, [2], partition=0),
        FakeMessage(10, [5], partition=1),
    ]
    assert _checked(messages).breaks == 0


def test_a_heartbeat_carries_no_event_and_must_name_the_next_number() -> None:
    tally = _checked([FakeMessage(1, [1]), FakeMessage(2, [], count=0), FakeMessage(2, [2])])
    assert (tally.of_view, tally.control_frames, tally.breaks) == ([2], 1, 0)
    assert _checked([FakeMessage(2, [], count=0)]).of_view == [0]


def test_events_of_several_publish_calls_in_a_frame_have_their_own_latencies() -> None:
    tally = _checked([FakeMessage(1, [1, 2, 3], published=[900, 900, 200])])
    assert tally.latencies.quantiles_ns((1.0,)) == [800]


def test_passages_name_arrival_and_newest_publish_time() -> None:
    tally = Tally(1, keep_passages=True)
    messages = [FakeMessage(1, [1, 2], published=[10, 20]), FakeMessage(3, [3], published=[30])]
    DeliveryCheck(1).take([Arrived(0, m, 50 + n) for n, m in enumerate(messages)], tally)
    assert tally.passages == [(50, 20), (51, 30)]


@given(
    st.lists(st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=30), max_size=8),
    st.integers(1, 8),
    st.data(),
)
def test_any_mix_of_instruments_is_in_order_until_one_event_is_moved(
    frames: list[list[str]], at_once: int, data: st.DataObject
) -> None:
    last: dict[str, int] = {}
    events: list[list[int]] = []
    for names in frames:
        numbers = []
        for name in names:
            last[name] = last.get(name, 41) + 1
            numbers.append(last[name])
        events.append(numbers)

    def checked() -> Tally:
        delivery, messages = 1, []
        for names, numbers in zip(frames, events, strict=True):
            messages.append(FakeMessage(delivery, numbers, names=names))
            delivery += len(numbers)
        return _checked(messages, at_once=at_once)

    assert checked().breaks == 0
    again = [(f, r) for f, names in enumerate(frames) for r, n in enumerate(names) if last[n] > 42]
    if again:
        frame, row = data.draw(st.sampled_from(again))
        events[frame][row] += data.draw(st.sampled_from([-1, 1, 7]))
        assert checked().breaks >= 1


def test_order_is_checked_per_view_and_instrument_and_across_frames() -> None:
    order = InstrumentOrder(3)
    three = _numbers(1, 1, 1)
    assert order.check(_column(["A", "B", "A"]), _numbers(1, 7, 2), three) == []
    assert order.check(_column(["B", "A"]), _numbers(9, 3), _numbers(1, 1)) == [1]
    assert order.check(_column(["A", "B", "A"]), _numbers(4, 10, 4), three) == [1]
    assert order.check(_column(["A", "A", "A"]), _numbers(5, 8, 9), _numbers(1, 2, 2)) == []
    assert order.check(_column(["A", "A", "A"]), _numbers(7, 11, 6), _numbers(1, 2, 0)) == [1, 2]


def test_many_views_and_instruments_are_told_apart() -> None:
    views, names = 40, [f"I{n}" for n in range(2_000)]
    order = InstrumentOrder(views)
    of_view = np.repeat(np.arange(views), len(names))
    column = _column(names * views)
    for number in (1, 2):
        assert order.check(column, np.full(len(of_view), number), of_view) == []
    wrong = np.full(len(of_view), 3)
    wrong[len(names) * 7 + 5] = 4
    assert order.check(column, wrong, of_view) == [7]


def test_quantiles_count_latencies_by_events_and_the_greatest_is_exact() -> None:
    latencies = Latencies()
    assert latencies.quantiles_ns((0.5,)) == []
    latencies.add(_numbers(15_000, 32_000, 25_000), _numbers(98, 1, 1))
    assert latencies.quantiles_ns((0.0, 0.5, 0.98, 0.99, 1.0)) == [
        20_000, 20_000, 20_000, 30_000, 32_000,
    ]  # fmt: skip


def test_the_reader_checks_each_view_and_acknowledges_the_newest_of_each_partition() -> None:
    reader, consumers = Reader(2), [FakeConsumer(), FakeConsumer()]
    for view, consumer in enumerate(consumers):
        reader.consumes(view, consumer)
    sent = [
        (0, FakeMessage(1, [1])),
        (1, FakeMessage(4, [9], view="y")),
        (0, FakeMessage(2, [2])),
        (0, FakeMessage(7, [3], partition=1)),
    ]
    for view, message in sent:
        reader.listener(view)(consumers[view], message)
    reader.turn()
    assert reader.tally.of_view == [3, 1]
    assert consumers[0].acknowledged == [sent[2][1], sent[3][1]]
    assert consumers[1].acknowledged == [sent[1][1]]
    reader.listener(1)(consumers[1], FakeMessage(5, [11], view="y"))
    reader.turn()
    assert reader.tally.breaks == 1
