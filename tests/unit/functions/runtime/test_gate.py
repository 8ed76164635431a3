"""A message is let through when it is confirmed, or passed over where it will come once more."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

import msgspec
import pytest

from functions.runtime.gate import Gate
from marketdata.confirmed import Confirmed, Place, encode_confirmed
from marketdata.positions import Position

LONG_S = 120.0


class MessageId:
    def __init__(self, place: Place) -> None:
        self._place = place

    def ledger_id(self) -> int:
        return self._place[0]

    def entry_id(self) -> int:
        return self._place[1]


class Held:
    """A gate, and the answers that messages got there, in order; each comes behind the last."""

    def __init__(self) -> None:
        self.gate = Gate("analysis")
        self.answers: SimpleQueue[tuple[Place, bool]] = SimpleQueue()

    def confirm(self, workflow: str = "analysis", **places: Place) -> None:
        told = Confirmed(workflow, {int(name[1:]): place for name, place in places.items()})
        self.gate.take(encode_confirmed(told))

    def comes(self, *places: Place, partition: int = 0) -> None:
        def run() -> None:
            for place in places:
                self.answers.put((place, self.gate.hold(partition, MessageId(place))))

        threading.Thread(target=run, daemon=True).start()

    def next(self) -> tuple[Place, bool]:
        return self.answers.get(timeout=LONG_S)


@pytest.fixture
def held() -> Held:
    return Held()


def test_what_is_confirmed_passes_and_nothing_else_does(held: Held) -> None:
    held.comes((7, 2), (7, 3), (8, 0))
    held.confirm(p0=(7, 2), p1=(9, 9))
    held.confirm("another", p0=(9, 9))
    assert held.next() == ((7, 2), True)
    held.confirm(p0=(8, -1))  # where a ledger has ended the next one begins
    assert held.next() == ((7, 3), True)
    assert held.answers.empty()
    held.confirm(p0=(7, 0))  # what was confirmed once stays so
    held.confirm(p0=(8, 0))
    assert held.next() == ((8, 0), True)


def test_whoever_follows_nobody_waits_for_nothing() -> None:
    gate = Gate("")
    assert gate.hold(0, MessageId((7, 2)))
    gate.doubt(0, 1)
    assert gate.hold(0, MessageId((7, 2)))


def test_what_comes_again_is_passed_over_and_waits_when_it_does(held: Held) -> None:
    held.comes((7, 3), (7, 4), (7, 1), (7, 2), (7, 3))
    held.gate.doubt(0, Position(7, 2).pack())
    assert [held.next() for _ in range(2)] == [((7, 3), False), ((7, 4), False)]
    held.confirm(p0=(7, 2))
    assert [held.next() for _ in range(2)] == [((7, 1), True), ((7, 2), True)]
    assert held.answers.empty()
    held.confirm(p0=(7, 3))
    assert held.next() == ((7, 3), True)


def test_doubts_about_another_partition_or_nothing_new_let_it_wait(held: Held) -> None:
    held.comes((7, 3))
    held.gate.doubt(1, Position(7, 2).pack())
    held.gate.doubt(0, None)
    held.confirm(p0=(7, 3))
    assert held.next() == ((7, 3), True)


@pytest.mark.parametrize("data", [b"", b"{}", b'{"workflow":"analysis","places":{"0":[7]}}'])
def test_what_is_nothing_of_the_kind_opens_nothing(held: Held, data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        held.gate.take(data)
    held.comes((7, 3))
    held.confirm(p0=(7, 3))
    assert held.next() == ((7, 3), True)


def test_the_topic_is_read_on_whatever_it_holds(held: Held) -> None:
    class Reader:
        def __init__(self, *found: bytes | Exception) -> None:
            self._found = iter(found)

        def read_next(self, _: int) -> "Reader":
            found = next(self._found)
            if isinstance(found, Exception):
                raise found
            self._data = found
            return self

        def data(self) -> bytes:
            return self._data

    good = encode_confirmed(Confirmed("analysis", {0: (7, 3)}))
    read: Callable[[Reader], None] = held.gate._read
    with pytest.raises(StopIteration):
        read(Reader(b"no", good))
    assert held.gate.hold(0, MessageId((7, 3)))
