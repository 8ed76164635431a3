"""Finding a place in one partition without reading all of it; every call blocks and is bounded.

Messages are asked for by their publish time, half of what is left at a time; what a message says of
the place decides. Messages that say nothing are read over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import pulsar

from control_plane.broker import newest_message
from marketdata.errors import DistributionError

MAX_MESSAGES = 10_000
MAX_BYTES = 256 * 1024 * 1024
RECEIVER_QUEUE = 16
FINE_MS = 100
"""Stretches of this length are read from their beginning."""

Judge = Callable[[pulsar.Message], bool | None]
"""Whether a message stands at or behind the place; None when it does not say."""


class OutOfBounds(DistributionError):
    """More would have to be read than one request may; the text says how much was."""


class Budget:
    """What one request may read.

    Args:
        timeout_s: from now on.
    """

    def __init__(
        self, *, timeout_s: float, messages: int = MAX_MESSAGES, size: int = MAX_BYTES
    ) -> None:
        self.deadline = time.monotonic() + timeout_s
        self._messages = messages
        self._bytes = size
        self._read = 0

    def left_ms(self) -> int:
        """How long one call may wait, at least a millisecond."""
        return max(1, int((self.deadline - time.monotonic()) * 1000))

    def spend(self, message: pulsar.Message) -> None:
        """Count a message that was read.

        Raises:
            OutOfBounds: it was the last one too many.
        """
        self._read += 1
        self._bytes -= len(message.data())
        if self._read > self._messages or self._bytes < 0 or time.monotonic() >= self.deadline:
            raise OutOfBounds(f"{self._read} messages were read")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a search ended.

    Attributes:
        message: the first at or behind the place; None when the partition ends before it.
        preceded: a message before the place is there: it is not the beginning that hides more.
    """

    message: pulsar.Message | None
    preceded: bool


def find_place(client: pulsar.Client, topic: str, judge: Judge, budget: Budget) -> Place:
    """The first message of a partition at or behind a place.

    Args:
        topic: one partition's own topic, of which publish times rise.

    Raises:
        OutOfBounds: the budget is spent.
        pulsar.PulsarException: the broker is away, or there is no such topic.
    """
    newest = newest_message(client, topic, timeout_ms=budget.left_ms())
    if newest is None:
        return Place(None, preceded=False)
    high_ms = newest.publish_timestamp()
    low_ms, preceded = high_ms, False
    with closing(_messages(client, topic, None, budget)) as messages:
        for message in messages:
            low_ms = message.publish_timestamp()
            break
    begin: int | None = None
    while high_ms - low_ms > FINE_MS:
        middle_ms = (low_ms + high_ms) // 2
        before_ms = _before(client, topic, judge, (middle_ms, high_ms), budget)
        if before_ms is None:
            high_ms = middle_ms
        else:
            begin = low_ms = max(middle_ms, before_ms)
            preceded = True
    with closing(_messages(client, topic, begin, budget)) as messages:
        for message in messages:
            behind = judge(message)
            if behind:
                return Place(message, preceded)
            preceded = preceded or behind is False
    return Place(None, preceded)


def _before(
    client: pulsar.Client, topic: str, judge: Judge, span_ms: tuple[int, int], budget: Budget
) -> int | None:
    """The publish time of a span's first message that says anything, when it is before the place.

    None when that one is behind it, or none of them says anything.
    """
    with closing(_messages(client, topic, span_ms[0], budget)) as messages:
        for message in messages:
            at_ms: int = message.publish_timestamp()
            if at_ms > span_ms[1]:
                return None
            behind = judge(message)
            if behind is not None:
                return None if behind else at_ms
    return None


def _messages(
    client: pulsar.Client, topic: str, from_ms: int | None, budget: Budget
) -> Generator[pulsar.Message]:
    """The messages from a publish time on, or all of them."""
    reader = client.create_reader(
        topic, pulsar.MessageId.earliest, receiver_queue_size=RECEIVER_QUEUE
    )
    try:
        if from_ms is not None:
            reader.seek(from_ms)
        while reader.has_message_available():
            message = reader.read_next(timeout_millis=budget.left_ms())
            budget.spend(message)
            yield message
    finally:
        reader.close()
