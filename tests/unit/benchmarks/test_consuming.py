"""The consumer's checks find what is planted, and nothing else."""

import numpy as np
import pulsar
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.consuming import InstrumentOrder, ViewReader, quantiles

TOPIC = "persistent://marketdata/delivery/view-x-partition-0"


def _column(names: list[str]) -> pa.DictionaryArray:
    return pa.array(names).dictionary_encode().cast(pa.dictionary(pa.int16(), pa.utf8()))


def _numbers(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


class FakeMessage:
    """As much of a message as the reader looks at."""

    def __init__(self, delivery: int, sequences: list[int], count: int | None = None) -> None:
        rows = len(sequences)
        batch = pa.record_batch(
            {
                "instrument": _column(["A"] * rows),
                "sequence": pa.array(sequences, pa.uint64()),
                "ts_publish": pa.array([100] * rows, pa.timestamp("ns", tz="UTC")),
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

    def data(self) -> bytes:
        return self._data

    def properties(self) -> dict[str, str]:
        return self._properties

    def topic_name(self) -> str:
        return TOPIC


class FakeConsumer:
    """Hands out messages, then ends the reader."""

    def __init__(self, messages: list[FakeMessage]) -> None:
        self._messages = messages

    def receive(self) -> FakeMessage:
        if not self._messages:
            raise pulsar.AlreadyClosed
        return self._messages.pop(0)

    def acknowledge(self, message: FakeMessage) -> None:
        assert message is not None


def _read(*messages: FakeMessage) -> ViewReader:
    reader = ViewReader(FakeConsumer(list(messages)), "x")
    reader.run()
    return reader


def test_contiguous_frames_are_counted_without_complaint() -> None:
    tally = _read(FakeMessage(5, [1, 2]), FakeMessage(7, [3]), FakeMessage(8, [4, 5])).tally
    assert (tally.events, tally.frames, tally.breaks) == (5, 3, 0)
    assert sum(int(weights.sum()) for weights in tally.weights) == 5


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([FakeMessage(1, [1]), FakeMessage(3, [2])], "delivery sequence 3 where 2 was due"),
        ([FakeMessage(1, [1]), FakeMessage(1, [2])], "delivery sequence 1 where 2 was due"),
        ([FakeMessage(1, [1]), FakeMessage(2, [3])], "1 events out of"),
        ([FakeMessage(1, [1, 1])], "1 events out of"),
        ([FakeMessage(1, [2, 1])], "1 events out of"),
        ([FakeMessage(1, [1], count=2)], "says 2 events, holds 1"),
    ],
)
def test_a_planted_violation_is_found(messages: list[FakeMessage], complaint: str) -> None:
    tally = _read(*messages).tally
    assert tally.breaks == 1
    assert complaint in tally.first_breaks[0]


@given(st.lists(st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=30), max_size=8))
def test_rising_sequences_of_any_mix_of_instruments_are_in_order(frames: list[list[str]]) -> None:
    order = InstrumentOrder()
    last: dict[str, int] = {}
    for names in frames:
        numbers = []
        for name in names:
            last[name] = last.get(name, 41) + 1
            numbers.append(last[name])
        assert order.check(_column(names), _numbers(*numbers)) == 0


def test_order_is_checked_per_instrument_and_across_frames() -> None:
    order = InstrumentOrder()
    assert order.check(_column(["A", "B", "A"]), _numbers(1, 7, 2)) == 0
    assert order.check(_column(["B", "A"]), _numbers(9, 3)) == 1
    assert order.check(_column(["A", "B", "A"]), _numbers(4, 10, 4)) == 1


def test_quantiles_count_values_by_their_weight() -> None:
    values, weights = _numbers(10, 30, 20), _numbers(98, 1, 1)
    assert quantiles(values, weights, (0.5, 0.98, 0.99, 1.0)) == [10, 10, 20, 30]
