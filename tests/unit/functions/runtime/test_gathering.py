"""Inputs are applied at once where few messages leave, and together where many do."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pulsar
import pytest

from functions.runtime import function as runtime
from functions.runtime.function import (
    ENOUGH_INPUTS,
    FREE_AT_ONCE,
    GATHERING,
    FrameFunction,
    PartitionStage,
)
from functions.runtime.inputs import Input
from functions.runtime.outputs import Output
from functions.runtime.settings import FunctionSettings, Topics

FREE_PER_SECOND, LONGEST_S = 200.0, 0.05
TURN_S = 0.002
"""What it takes to apply inputs, however many."""


class Stage(PartitionStage):
    """Sends so many messages whenever inputs are applied, and remembers how many these were."""

    def __init__(self, function: "Fanning") -> None:
        self._function = function
        self.applied: list[int] = []
        self.due_s: float | None = None

    def recover(self) -> None: ...

    def apply(self, items: Sequence[Input]) -> None:
        if items:
            self.applied.append(len(items))
            self._function.clock.now_s += TURN_S
            self._function.send_some(items)

    def confirmed(self, output: Output, message_id: Any, position: int) -> None: ...

    def tidy(self) -> None: ...

    def due_in_s(self, now_s: float) -> float | None:  # noqa: ARG002
        return self.due_s


class Fanning(FrameFunction):
    name = "fanning"

    def __init__(self, messages: int, clock: "Clock") -> None:
        super().__init__()
        self.clock = clock
        self.paced = True
        self.one = Stage(self)
        self._messages = messages
        self.entries = 0
        self.reporter: Any = SimpleNamespace(due_in_s=1e6, counters=Counter[str]())
        self.log: Any = SimpleNamespace(info=lambda *_: None)
        self.configure(
            FunctionSettings(
                Topics(),
                partitions=1,
                free_messages_per_second=FREE_PER_SECOND,
                gather_max_s=LONGEST_S,
            )
        )

    def setup(self) -> None: ...

    def before_turn(self) -> None: ...

    def after_turn(self, received: Collection[int]) -> None: ...

    def stage(self, partition: int) -> PartitionStage:  # noqa: ARG002
        return self.one

    def send_some(self, items: Sequence[Input]) -> None:
        output: Any = SimpleNamespace(send=lambda *_, **__: None)
        for _ in range(self._messages):
            self.send(output, 0, (), b"", {}, position=items[-1].position, paced=self.paced)

    def take(self, inputs: int) -> list[int]:
        """Hand inputs over, one a turn; how many were applied together."""
        self.one.applied.clear()
        for _ in range(inputs):
            item = Input(pulsar.MessageId(0, 1, self.entries, -1), b"frame", {})
            self.entries += 1
            self._room.take(item.size_bytes)
            consumer: Any = SimpleNamespace(
                acknowledge=lambda _: None, redeliver_unacknowledged_messages=lambda: None
            )
            self._events.put(runtime._Received(0, item, consumer))
            self.turn()
        return self.one.applied

    def turn(self) -> None:
        self._events.put(runtime._Wake())
        self._turn()


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(runtime, "time", clock)
    return clock


def taken_over(messages: int, clock: Clock) -> Fanning:
    function = Fanning(messages, clock)
    # The first input is in doubt until it comes again.
    for _ in range(2):
        function.entries = 0
        function.take(1)
        clock.now_s += 1.0
    function.turn()
    clock.now_s += 1.0
    return function


def test_where_few_messages_leave_nothing_waits(clock: Clock) -> None:
    function = taken_over(1, clock)
    for _ in range(200):
        clock.now_s += 1 / FREE_PER_SECOND
        assert function.take(1) == [1]


def test_a_few_leave_at_once_after_a_pause(clock: Clock) -> None:
    function = taken_over(1, clock)
    assert function.take(FREE_AT_ONCE) == [1] * FREE_AT_ONCE


def test_where_many_leave_inputs_gather_for_a_multiple_of_the_turn(clock: Clock) -> None:
    function = taken_over(FREE_AT_ONCE + 4, clock)
    assert function.take(2) == [1, 1], "one turn is free"
    assert function.take(3) == []
    clock.now_s += 0.9 * GATHERING * TURN_S
    assert function.take(1) == []
    clock.now_s += 0.2 * GATHERING * TURN_S
    function.turn()
    assert function.one.applied == [4]


def test_no_input_gathers_for_longer_than_the_longest_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "GATHERING", 1e6)
    function = taken_over(10_000, clock)
    assert function.take(2) == [1, 1]
    assert function.take(1) == []
    clock.now_s += LONGEST_S + 0.001
    function.turn()
    assert function.one.applied == [1]


def test_what_is_not_paced_makes_nothing_wait(clock: Clock) -> None:
    function = taken_over(10_000, clock)
    function.paced = False
    for _ in range(5):
        assert function.take(1) == [1]


def test_held_rows_that_are_due_leave_at_once(clock: Clock) -> None:
    function = taken_over(10_000, clock)
    assert function.take(2) == [1, 1]
    assert function.take(1) == []
    function.one.due_s = 0.0
    function.turn()
    assert function.one.applied == [1]


def test_what_is_enough_does_not_wait(clock: Clock) -> None:
    function = taken_over(10_000, clock)
    assert function.take(2) == [1, 1]
    assert function.take(ENOUGH_INPUTS - 1) == []
    assert function.take(1) == [ENOUGH_INPUTS]
