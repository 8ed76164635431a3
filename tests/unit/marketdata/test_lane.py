"""What a lane takes for stored.

The producer is a fake: a real broker tells of frames that it then fails to store only while it goes
down, for some milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pulsar
import pytest
from events import trades
from pulsar import Result

from marketdata import lane as lane_module
from marketdata.batching import PartitionBuffer, conform_events
from marketdata.lane import Answer, Lane
from marketdata.pace import Pace
from scripts.devstack.processes import wait_until

CALLS = 4
"""A frame each."""


class Broker:
    """Producers of one name, of which each is told that `pushed` is the last sequence id."""

    def __init__(self) -> None:
        self.pushed = -1
        self.sent: list[int | None] = []
        self.producers = 0

    def open(self) -> Any:
        self.producers += 1
        return self

    def last_sequence_id(self) -> int:
        return self.pushed

    def send_async(self, _data: bytes, _answered: Callable[..., None], **options: Any) -> None:
        # The Python client asks the same of an id: 0 would be none, and get another number.
        self.sent.append(int(options["sequence_id"]) if options["sequence_id"] else None)

    def is_connected(self) -> bool:
        return True

    def close(self) -> None:
        pass


def lane_of(broker: Broker, pace: Pace | None = None) -> tuple[Lane, SimpleQueue[Any]]:
    answers: SimpleQueue[Any] = SimpleQueue()
    buffer = PartitionBuffer(max_events=10, max_bytes=1_000_000)
    lane = Lane(0, buffer, broker.open, answers, lambda *_: None, None, pace=pace)
    return lane, answers


def publish(lane: Lane) -> int:
    """As many frames as `CALLS`; the last one's number."""
    for _ in range(CALLS):
        lane.add(*conform_events(trades(["A"] * 10), ts_publish_ns=1), None)
        lane.flush_buffer()
    return lane.flush_buffer()


def test_who_resumes_sends_what_is_said_to_be_under_way() -> None:
    """It may never be stored; the broker drops what is."""
    broker = Broker()
    broker.pushed = 7
    lane, answers = lane_of(broker)
    lane.resume_from(5)
    assert publish(lane) == 5 + CALLS
    assert broker.sent == [6, 7, 8, 9]
    assert answers.empty()
    assert lane.confirmed_sequence_id == 5


def test_a_producer_that_is_opened_anew_sends_all_that_is_unconfirmed() -> None:
    broker = Broker()
    lane, _ = lane_of(broker)
    publish(lane)
    assert broker.sent == [0, 1, 2, 3]
    assert len(lane.settle(Answer(lane, 0, 0, Result.Ok, pulsar.MessageId.earliest))) == 1
    broker.pushed = CALLS - 1
    broker.sent.clear()
    assert not lane.settle(Answer(lane, 0, 1, Result.Timeout, None))
    assert wait_until(lambda: len(broker.sent) == CALLS - 1, 120)
    assert broker.producers == 2
    assert broker.sent == [1, 2, 3]


def test_new_frames_have_numbers_that_the_broker_has_not_seen() -> None:
    broker = Broker()
    broker.pushed = 41
    lane, _ = lane_of(broker)
    publish(lane)
    assert broker.sent == [42, 43, 44, 45]


def test_events_gather_where_their_publisher_sends_many_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The lane has nothing under way, so it would send at once."""
    now_s = [100.0]
    monkeypatch.setattr(
        lane_module,
        "time",
        SimpleNamespace(monotonic=lambda: now_s[0], monotonic_ns=time.monotonic_ns),
    )
    broker = Broker()
    pace = Pace(128.0, burst=2, longest_s=0.025)
    lane, _ = lane_of(broker, pace)

    def add_one() -> None:
        lane.add(*conform_events(trades(["A"]), ts_publish_ns=1), None)
        for number in broker.sent:
            lane.settle(Answer(lane, 0, number or 0, Result.Ok, pulsar.MessageId.earliest))

    for _ in range(4):
        add_one()
    assert broker.sent == [0, 1, 2, 3], "a few leave at once"
    add_one()
    add_one()
    assert broker.sent == [0, 1, 2, 3]
    assert lane.buffered_events == 2
    now_s[0] += 0.026
    lane.send_if_free()
    assert broker.sent == [0, 1, 2, 3, 4]
    assert lane.buffered_events == 0
