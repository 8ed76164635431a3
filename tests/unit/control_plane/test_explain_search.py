"""A place in a partition is found by halving its entries, as reading all of it would find it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, cast

import pulsar
import pyarrow as pa
import pytest
from events import trades
from hypothesis import given
from hypothesis import strategies as st

from control_plane.domains.explain.events import LoggedEvent, trace
from control_plane.domains.explain.search import Budget, OutOfBounds, Place, Stored, find_place
from control_plane.pulsar_values import StoredEntries, stored_entries
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.formats.registry import event_format
from marketdata.plans import Delivery, ViewSpec, view_of
from marketdata.positions import Position


@dataclass(frozen=True)
class Message:
    """A message of which the payload is a number, or empty where it says nothing."""

    ledger: int
    entry: int
    payload: bytes

    def message_id(self) -> pulsar.MessageId:
        return pulsar.MessageId(0, self.ledger, self.entry, -1)

    def data(self) -> bytes:
        return self.payload


class Reader:
    def __init__(self, messages: list[Message], read: list[Message]) -> None:
        self._left, self._read = iter(messages), read
        self._next = next(self._left, None)

    def has_message_available(self) -> bool:
        return self._next is not None

    def read_next(self, timeout_millis: int) -> Message:
        assert timeout_millis > 0
        assert self._next is not None
        message, self._next = self._next, next(self._left, None)
        self._read.append(message)
        return message

    def close(self) -> None:
        pass


@dataclass
class Partition:
    """Ledgers in memory, with the calls of a client that the search makes."""

    ledgers: list[list[Message]]
    read: list[Message] = field(default_factory=list)
    gone: int = 0
    """So many of the first ledgers were removed after they had been asked for."""

    @property
    def messages(self) -> list[Message]:
        return [*itertools.chain.from_iterable(self.ledgers[self.gone :])]

    def create_reader(self, topic: str, start: pulsar.MessageId, **_: Any) -> Reader:
        assert topic == "topic-partition-0"
        begin = (start.ledger_id(), start.entry_id())
        return Reader(
            [each for each in self.messages if (each.ledger, each.entry) >= begin], self.read
        )

    @property
    def stored(self) -> Stored:
        ledgers = [(7 + 3 * n, len(messages)) for n, messages in enumerate(self.ledgers)]
        return Stored("topic-partition-0", StoredEntries(tuple(ledgers), written=any(self.ledgers)))


def partition_of_numbers(payloads: list[list[bytes]], gone: int = 0) -> Partition:
    return Partition(
        [
            [Message(7 + 3 * n, entry, payload) for entry, payload in enumerate(ledger)]
            for n, ledger in enumerate(payloads)
        ],
        gone=gone,
    )


def find(partition: Partition, wanted: int, **bounds: int) -> Place:
    def judge(message: Any) -> bool | None:
        return int(message.data()) >= wanted if message.data() else None

    client = cast("pulsar.Client", partition)
    return find_place(client, partition.stored, judge, Budget(timeout_s=60, **bounds))


@st.composite
def partitions(draw: st.DrawFn) -> Partition:
    sizes = draw(st.lists(st.integers(0, 30), max_size=6))
    total = sum(sizes)
    rises = draw(st.lists(st.integers(0, 2), min_size=total, max_size=total))
    says = draw(st.lists(st.booleans(), min_size=total, max_size=total))
    payloads = iter(
        [
            str(number).encode() if told else b""
            for number, told in zip(itertools.accumulate(rises), says, strict=True)
        ]
    )
    ledgers = [list(itertools.islice(payloads, size)) for size in sizes]
    return partition_of_numbers(ledgers, gone=draw(st.integers(0, len(sizes))))


@given(partitions(), st.integers(0, 80))
def test_the_first_message_at_or_behind_the_place_is_found(
    partition: Partition, wanted: int
) -> None:
    saying = [message for message in partition.messages if message.payload]
    expected = next((each for each in saying if int(each.payload) >= wanted), None)
    found = find(partition, wanted)
    assert cast("Any", found.message) == expected
    assert found.preceded == any(int(each.payload) < wanted for each in saying)
    if expected is not None:
        assert partition.stored.position(found.number) == (expected.ledger, expected.entry, 0)


def test_few_of_many_messages_are_read() -> None:
    numbers = [b"%d" % n for n in range(100_000)]
    partition = partition_of_numbers([numbers[:30_000], [], numbers[30_000:]])
    found = find(partition, 41_234)
    assert found.message is not None
    assert found.message.data() == b"41234"
    assert len(partition.read) < 30


@pytest.mark.parametrize("bounds", [{"messages": 20}, {"size": 300}])
def test_a_search_that_would_read_too_much_says_so(bounds: dict[str, int]) -> None:
    rare = partition_of_numbers([[b"" if n % 500 else b"%0100d" % n for n in range(10_000)]])
    with pytest.raises(OutOfBounds, match="messages were read"):
        find(rare, 4_000, **bounds)


def test_an_empty_partition_has_no_place() -> None:
    assert find(partition_of_numbers([[], []]), 1) == Place(0, None, preceded=False)


@pytest.mark.parametrize(
    ("ledgers", "last", "expected"),
    [
        ([(9, 0)], "9:-1", StoredEntries(((9, 0),), written=False)),
        ([(9, 0)], "9:4", StoredEntries(((9, 5),), written=True)),
        ([(7, 813), (9, 0)], "7:812", StoredEntries(((7, 813), (9, 0)), written=True)),
        ([(7, 813), (9, 0)], "9:-1", StoredEntries(((7, 813), (9, 0)), written=True)),
        # Retention has removed the ledger of the last entry.
        ([(9, 0)], "7:812", StoredEntries(((9, 0),), written=True)),
    ],
)
def test_the_brokers_statistics_tell_what_a_partition_holds(
    ledgers: list[tuple[int, int]], last: str, expected: StoredEntries
) -> None:
    told = [{"ledgerId": ledger, "entries": entries} for ledger, entries in ledgers]
    assert stored_entries({"ledgers": told, "lastConfirmedEntry": last}) == expected


class Heartbeat(Message):
    """A message of a view without events; the payload is the place of its last input."""

    def properties(self) -> dict[str, str]:
        numbers = dict.fromkeys(("plan", "delivery_epoch", "delivery_sequence"), "1")
        return {"kind": "heartbeat", "position": self.payload.decode()} | numbers

    def publish_timestamp(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("places", "gone", "preceded", "emptied"),
    [
        ([], 0, False, False),
        ([(7, 2)], 0, True, False),
        # So close to the event that it is looked for behind it.
        ([(7, 3)], 0, False, False),
        ([(7, 2)], 1, False, True),
    ],
)
def test_a_view_that_has_lost_all_it_held_is_told_from_one_that_is_behind(
    places: list[tuple[int, int]], gone: int, *, preceded: bool, emptied: bool
) -> None:
    event = LoggedEvent(pa.RecordBatch.from_pylist([]), 0, Position(7, 3, 5))
    payloads = [b"%d" % Position(*place).pack() for place in places]
    messages = [Heartbeat(7, entry, payload) for entry, payload in enumerate(payloads)]
    partition = Partition([list[Message](messages)], gone=gone)
    client, view = cast("pulsar.Client", partition), view_of(ViewSpec())
    found = trace(client, view, partition.stored, event, Budget(timeout_s=60))
    assert (found.message, found.preceded, found.emptied) == (None, preceded, emptied)


@dataclass(frozen=True)
class Single(Message):
    """One of the events of an entry, of which all have the place of their input."""

    index: int
    place: int

    def message_id(self) -> pulsar.MessageId:
        return pulsar.MessageId(0, self.ledger, self.entry, self.index)

    def properties(self) -> dict[str, str]:
        told = {"kind": "trade", "count": "1", "format": "json", "granularity": "event"}
        numbers = {"plan": "1", "delivery_epoch": "1", "delivery_sequence": str(self.index + 1)}
        return told | numbers | {"position": str(self.place)}

    def publish_timestamp(self) -> int:
        return 1


@pytest.mark.parametrize("entries", [1, 2], ids=["at the end", "before others"])
@pytest.mark.parametrize("sought", range(4))
def test_an_event_is_found_wherever_it_stands_in_its_entry(entries: int, sought: int) -> None:
    batch = trades(["A", "A", "A", "A"])
    numbers = InstrumentSequences().assign(batch)
    rows = with_sequences(batch, "trade", numbers, epoch=1, ts_sequenced_ns=1)
    held = rows.slice(0, 3)
    place = Position(7, 3, 0)
    written = event_format("json").encode_each(held)
    messages: list[Message] = [
        Single(7, entry, data, index, Position(7, 3 + entry, 0).pack())
        for entry in range(entries)
        for index, data in enumerate(written if entry == 0 else written[:1])
    ]
    partition = Partition([messages])
    stored = Stored("topic-partition-0", StoredEntries(((7, entries),), written=True))
    client = cast("pulsar.Client", partition)
    view = view_of(ViewSpec(format="json", delivery=Delivery(granularity="event")))
    event = LoggedEvent(rows.slice(sought, 1), 0, place)
    found = trace(client, view, stored, event, Budget(timeout_s=60)).message
    assert found is not None
    assert found.delivery_sequence == (sought + 1 if sought < 3 else None)
    assert found.place == place.pack()
