"""A place in a partition is found by publish times, as reading all of it would find it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, cast

import pulsar
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domains.explain.search import Budget, OutOfBounds, find_place


@dataclass(frozen=True)
class Message:
    """A message of which the payload is a number, or empty where it says nothing."""

    at_ms: int
    payload: bytes

    def publish_timestamp(self) -> int:
        return self.at_ms

    def data(self) -> bytes:
        return self.payload


class Reader:
    def __init__(self, messages: list[Message], read: list[Message]) -> None:
        self._all, self._left, self._read = messages, messages, read

    def seek(self, at_ms: int) -> None:
        self._left = [message for message in self._all if message.at_ms >= at_ms]

    def has_message_available(self) -> bool:
        return bool(self._left)

    def read_next(self, timeout_millis: int) -> Message:
        assert timeout_millis > 0
        message, *self._left = self._left
        self._read.append(message)
        return message

    def close(self) -> None:
        pass


class Partition:
    """A partition in memory, with the calls of a client that the search makes."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages, self.read = messages, list[Message]()

    def create_reader(self, _topic: str, start: Any, **_: Any) -> Reader:
        newest = start == pulsar.MessageId.latest
        return Reader(self.messages[-1:] if newest else self.messages, self.read)


def find(partition: Partition, wanted: int, **bounds: int) -> Any:
    def judge(message: Any) -> bool | None:
        return int(message.data()) >= wanted if message.data() else None

    client = cast("pulsar.Client", partition)
    return find_place(client, "topic", judge, Budget(timeout_s=60, **bounds))


@st.composite
def partitions(draw: st.DrawFn) -> list[Message]:
    steps = draw(st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 2), st.booleans())))
    times = itertools.accumulate((step for step, _, _ in steps), initial=0)
    numbers = itertools.accumulate((rise for _, rise, _ in steps), initial=0)
    return [
        Message(at_ms, str(number).encode() if says else b"")
        for at_ms, number, (_, _, says) in zip(times, numbers, steps, strict=False)
    ]


@given(partitions(), st.integers(0, 40))
def test_the_first_message_at_or_behind_the_place_is_found(
    messages: list[Message], wanted: int
) -> None:
    saying = [message for message in messages if message.payload]
    expected = next((each for each in saying if int(each.payload) >= wanted), None)
    found = find(Partition(messages), wanted)
    assert found.message == expected
    assert found.preceded == any(int(each.payload) < wanted for each in saying)


def test_few_of_many_messages_are_read() -> None:
    partition = Partition([Message(10 * n, str(n).encode()) for n in range(100_000)])
    assert find(partition, 41_234).message.payload == b"41234"
    assert len(partition.read) < 100


@pytest.mark.parametrize("bounds", [{"messages": 20}, {"size": 300}])
def test_a_search_that_would_read_too_much_says_so(bounds: dict[str, int]) -> None:
    rare = [Message(10 * n, b"" if n % 500 else b"%0100d" % n) for n in range(10_000)]
    with pytest.raises(OutOfBounds, match="messages were read"):
        find(Partition(rare), 4_000, **bounds)
