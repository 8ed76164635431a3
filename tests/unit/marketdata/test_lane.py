"""The way of a partition's events to its topic: the broker's answers alone say what is stored."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pulsar
from events import trades

from marketdata.batching import PartitionBuffer
from marketdata.lane import Answer, Lane

NOT_STORED_AGAIN = pulsar.MessageId(-1, -1, -1, -1)
"""What a broker answers to a repeat."""


class Producer:
    """A producer whose broker tells a last sequence id; nothing is answered by itself.

    Args:
        last: frames up to this id were stored, or were under way when the broker ended.
        expected: ids that are waited for.
    """

    def __init__(self, last: int, *expected: int) -> None:
        self.sent: list[int] = []
        self.all_sent = threading.Event()
        self._last = last
        self._expected = expected

    def last_sequence_id(self) -> int:
        return self._last

    def send_async(
        self, _: bytes, __: Callable[..., None], *, properties: Any, sequence_id: int
    ) -> None:
        assert properties["count"] == "1"
        self.sent.append(sequence_id)
        if self.sent == list(self._expected):
            self.all_sent.set()

    def is_connected(self) -> bool:
        return True

    def close(self) -> None:
        pass


def lane_over(*producers: Producer) -> tuple[Lane, "SimpleQueue[Any]"]:
    """A lane that opens these one after the other, with frames of one event."""
    opened, answers = iter(producers), SimpleQueue[Any]()
    buffer = PartitionBuffer(max_events=1, max_bytes=1 << 20)
    opening: Callable[[], Any] = lambda: next(opened)  # noqa: E731
    return Lane(0, buffer, opening, answers, lambda *_: None, None, eager=False), answers


def test_what_a_broker_only_had_under_way_is_sent_again_by_who_resumes() -> None:
    producer = Producer(4)
    lane, answers = lane_over(producer)
    lane.resume_from(2)
    lane.add("trade", trades(["A", "B", "C"]), None)

    assert producer.sent == [3, 4, 5]
    assert answers.empty(), "nothing is stored before the broker says so"
    [frame] = lane.settle(Answer(lane, 0, 3, pulsar.Result.Ok, NOT_STORED_AGAIN))
    assert frame.sequence_id == 3


def test_what_a_broker_only_had_under_way_is_sent_again_by_who_lost_it() -> None:
    first, second = Producer(-1), Producer(1, 0, 1, 2)
    lane, answers = lane_over(first, second)
    lane.add("trade", trades(["A", "B", "C"]), None)
    assert first.sent == [0, 1, 2]

    assert lane.settle(Answer(lane, 0, 0, pulsar.Result.AlreadyClosed, None)) == []
    assert second.all_sent.wait(120)
    assert answers.empty()
    assert lane.resent_frames == 3
    lane.close()
