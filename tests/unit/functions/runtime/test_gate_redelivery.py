"""What the gate passes over comes again, and is asked for until it does: no longer, no oftener."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pulsar
import pytest

from functions.runtime import function as runtime
from functions.runtime.function import FrameFunction, PartitionStage
from functions.runtime.inputs import Input
from functions.runtime.outputs import Output
from functions.runtime.settings import FunctionSettings, Topics
from marketdata.confirmed import Confirmed, encode_confirmed

LONG_S = 120.0
LEDGER = 7


class Stage(PartitionStage):
    """Makes nothing of inputs, so that they can be acknowledged at once; tells which they were."""

    def __init__(self) -> None:
        self.applied: list[int] = []

    def recover(self) -> None: ...

    def apply(self, items: Sequence[Input]) -> None:
        self.applied += [item.message_ids[0].entry_id() for item in items]

    def confirmed(self, output: Output, message_id: Any, position: int) -> None: ...

    def tidy(self) -> None: ...


class Following(FrameFunction):
    """Follows a workflow; the worker's turns are the test's, the runtime's thread is a real one."""

    name = "following"

    def __init__(self) -> None:
        super().__init__()
        self.one = Stage()
        self.counters = Counter[str]()
        self.reporter: Any = SimpleNamespace(
            due_in_s=1e6,
            counters=self.counters,
            status=SimpleNamespace(),
            report=lambda: None,
            error=lambda _: None,
        )
        self.log: Any = SimpleNamespace(info=lambda *_: None)
        self.configure(FunctionSettings(Topics(), partitions=1, lane="follows-analysis"))
        self._worker = threading.current_thread()
        self.came: SimpleQueue[int | None] = SimpleQueue()
        self.handed = self.handled = 0
        threading.Thread(target=self._take, daemon=True).start()

    def setup(self) -> None: ...

    def before_turn(self) -> None: ...

    def after_turn(self, received: Collection[int]) -> None: ...

    def stage(self, partition: int) -> PartitionStage:  # noqa: ARG002
        return self.one

    def _take(self) -> None:
        """The runtime's thread."""
        consumer = SimpleNamespace(
            acknowledge=lambda _: None, redeliver_unacknowledged_messages=lambda: None
        )
        while (entry := self.came.get()) is not None:
            message = pulsar.MessageId(0, LEDGER, entry, -1)
            told = SimpleNamespace(
                topic_name=lambda: "sequenced-partition-0",
                message_id=lambda message=message: message,
                publish_timestamp=lambda: 0,
                properties=dict,
            )
            self.process(b"frame", SimpleNamespace(message=told, consumers={"log": consumer}))
            self.handled += 1

    def confirm(self, entry: int) -> None:
        told = Confirmed("analysis", {0: (LEDGER, entry)})
        self._gate.take(encode_confirmed(told))

    def turn(self, *entries: int, left: int = 0, later: bool = True) -> int:
        """Hand messages over, and let the worker look; how often it asked for a redelivery.

        Args:
            entries: that come.
            left: so many of them are not through or passed over then: the first one waits.
            later: so long after the last question that it may ask again, once.
        """
        if later:
            for partition in self._partitions.values():
                partition.asked_at = -2 * runtime.ASK_AGAIN_S
        self.handed += len(entries)
        for entry in entries:
            self.came.put(entry)
        until(lambda: self.handled == self.handed - left and self._gate.holds is (left > 0))
        before = self.counters["redeliveries_asked"]
        for _ in range(2):  # the first one takes the partition over
            self._events.put(runtime._Wake())
            self._turn()
        self._look_around()
        return self.counters["redeliveries_asked"] - before


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Iterator[Following]:
    monkeypatch.setattr(runtime, "ASK_AGAIN_S", 1e9)
    made = Following()
    yield made
    made.confirm(1 << 20)
    made.came.put(None)


def test_what_was_passed_over_is_asked_for_again_when_the_redelivery_came_elsewhere(
    function: Following,
) -> None:
    function.confirm(5)
    # 5 is handed out too early, and 4 on the way when the worker finds that out.
    assert function.turn(5, 4) == 1
    assert function.one.applied == [4]
    # The partition is read elsewhere before the redelivery comes, and then here again.
    assert function.turn(6, 7) == 1
    assert function.turn(6, 7, left=2) == 0
    function.confirm(7)
    assert function.turn() == 1, "4 is the last that is known here"
    assert function.turn(6, 7) == 0
    assert function.one.applied == [4, 6, 7]


def test_what_was_passed_over_is_asked_for_again_when_all_was_acknowledged_meanwhile(
    function: Following,
) -> None:
    function.confirm(5)
    assert function.turn(5, 4, 5) == 1
    assert function.one.applied == [4, 5]
    # Nothing is left that the redelivery could bring.
    assert function.turn(6) == 1
    assert function.turn() == 0, "once is enough: whoever reads the partition is answered"
    function.confirm(6)
    assert function.turn(6) == 0
    assert function.one.applied == [4, 5, 6]


def test_nothing_is_asked_for_while_a_message_waits_and_nothing_more_is_in_doubt(
    function: Following,
) -> None:
    function.confirm(5)
    assert function.turn(5) == 1
    # Others have done 5: what comes next is passed over once, and then waits.
    assert function.turn(7) == 1
    assert [function.turn(7, left=1), function.turn(left=1), function.turn(left=1)] == [0] * 3
    function.confirm(7)
    assert function.turn() == 1
    assert function.turn(7) == 0
    assert function.one.applied == [7]


def test_what_is_newly_in_doubt_is_asked_for_while_a_message_waits(function: Following) -> None:
    function.confirm(9)
    assert function.turn(4) == 1
    assert function.turn(4, later=False) == 0
    # Behind a hole, and too early to ask again.
    assert function.turn(9, 10, left=1, later=False) == 0
    assert function.turn(left=1) == 1, "10 is passed over for it"
    assert function.turn(9, 10, left=1) == 0
    assert function.one.applied == [4, 9]
