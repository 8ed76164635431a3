"""Finding an event in the log, and the message of a view that holds it; every call blocks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pulsar
import pyarrow as pa
import pyarrow.compute as pc

from control_plane.domains.explain.search import Budget, Stored, find_place
from marketdata.arrays import codes_of, values_of
from marketdata.control_frames import EPOCH, HEARTBEAT, is_control
from marketdata.delivered_frames import decode_payload, position_of
from marketdata.errors import InvalidFrame
from marketdata.formats import FormatError
from marketdata.frames import frame_kind, read_frame
from marketdata.mixed import single_kinds
from marketdata.plans import View
from marketdata.positions import BATCH_BITS, Position
from marketdata.topics import partition_index

ENTRY_PLACES = 1 << BATCH_BITS + 1
"""A frame's pieces take fewer places before the frame's own than lie between two entries."""


@dataclass(frozen=True, slots=True)
class Sought:
    """An event by its name; without an epoch it is of the newest one."""

    instrument: str
    sequence: int
    epoch: int | None = None

    def __str__(self) -> str:
        epoch = "" if self.epoch is None else f" of epoch {self.epoch}"
        return f"{self.instrument} {self.sequence}{epoch}"


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event as the log holds it.

    Attributes:
        row: a batch of one row.
        position: of its frame.
    """

    row: pa.RecordBatch
    partition: int
    position: Position

    @property
    def kind(self) -> str:
        """The kind of the event."""
        return frame_kind(self.row)

    def number(self, column: str) -> int:
        """What a column of numbers or times holds; times in nanoseconds."""
        return int(self.row.column(column).cast(pa.int64())[0].as_py())


@dataclass(frozen=True, slots=True)
class Absent:
    """The log does not hold an event; `reason` is for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class ViewMessage:
    """A message of a view in the partition of an event.

    Attributes:
        place: the property `position`, packed: of its last input.
        row: where it has the event; None where it has it not.
        readable: whether its payload could be decoded at all.
    """

    position: Position
    place: int
    published_at: datetime
    plan: int
    delivery_epoch: int
    first_delivery: int
    row: int | None
    readable: bool

    @property
    def delivery_sequence(self) -> int | None:
        """Of the event; None when the message does not hold it."""
        return None if self.row is None else self.first_delivery + self.row


@dataclass(frozen=True, slots=True)
class ViewTrace:
    """What a view's partition tells of an event.

    Attributes:
        message: the one that has the event; else the first one whose inputs reach to it or beyond;
            None when the view has not come so far.
        preceded: it holds messages from before the event too.
        emptied: it holds nothing any more, but once did.
    """

    message: ViewMessage | None
    preceded: bool
    emptied: bool = False


def find_event(
    client: pulsar.Client, log: Stored, sought: Sought, budget: Budget
) -> LoggedEvent | Absent:
    """An event in its instrument's partition of the log.

    Raises:
        OutOfBounds, HistoryTimeout: it was not found within the budget.
        pulsar.PulsarException: the log cannot be read.
    """
    partition = partition_index(log.topic)
    end = len(log)
    newest = next((message for _, message in log.read(client, max(0, end - 1), end, budget)), None)
    if newest is None:
        return Absent(f"partition {partition} of the log is empty")
    epoch = _epoch_of(newest) if sought.epoch is None else sought.epoch
    wanted = (epoch, sought.sequence)

    def judge(message: pulsar.Message) -> bool | None:
        properties = message.properties()
        if properties.get("kind") == EPOCH:
            return int(properties["epoch"]) > epoch
        if properties.get("kind") != HEARTBEAT and properties.get("count") == "0":
            return None
        newest_key = newest_key_of(read_frame(message.data()), properties, sought.instrument)
        return None if newest_key is None else newest_key >= wanted

    place = find_place(client, log, judge, budget)
    if place.message is None:
        return Absent(f"the log has not come to it yet; its newest epoch is {_epoch_of(newest)}")
    if not is_control(place.message.properties()):
        batch = read_frame(place.message.data())
        for *key, row in keys_of(batch, sought.instrument):
            if tuple(key) == wanted:
                ((_, event),) = single_kinds(frame_kind(batch, mixed=True), batch.slice(row, 1))
                return LoggedEvent(event, partition, position_of(place.message.message_id()))
    if place.preceded:
        # Numbers have no holes, so it is the epoch that ends before, or clocks that went back.
        return Absent(f"epoch {epoch} of the instrument ends before it in partition {partition}")
    return Absent(f"the log does not hold it any more, or never did: epoch {epoch} begins later")


def newest_key_of(
    batch: pa.RecordBatch, properties: Mapping[str, str], instrument: str
) -> tuple[int, int] | None:
    """Epoch and sequence of an instrument's newest event by then; None when that is not told.

    A heartbeat tells the sequence that comes next.
    """
    if properties.get("kind") == HEARTBEAT:
        told = batch.filter(pc.equal(batch.column("instrument"), instrument)).to_pylist()
        return (told[-1]["epoch"], told[-1]["sequence"] - 1) if told else None
    keys = keys_of(batch, instrument)
    return keys[-1][:2] if keys else None


def keys_of(batch: pa.RecordBatch, instrument: str) -> list[tuple[int, int, int]]:
    """The events of an instrument in a frame of the log: epoch, sequence and row, in log order."""
    rows = rows_of(batch, instrument)
    epochs = values_of(batch.column("epoch"), np.uint32)[rows].tolist()
    sequences = values_of(batch.column("sequence"), np.uint64)[rows].tolist()
    return list(zip(epochs, sequences, rows.tolist(), strict=True))


def rows_of(batch: pa.RecordBatch, instrument: str) -> npt.NDArray[np.intp]:
    """The rows of an instrument in a frame of the log."""
    column = batch.column("instrument")
    names = column.dictionary.to_pylist()
    if instrument not in names:
        return np.empty(0, dtype=np.intp)
    return np.flatnonzero(codes_of(column) == names.index(instrument))


def trace(
    client: pulsar.Client, view: View, stored: Stored, event: LoggedEvent, budget: Budget
) -> ViewTrace:
    """What a view's partition tells of an event.

    Raises:
        OutOfBounds, HistoryTimeout: the place was not found within the budget.
        pulsar.PulsarException: the topic cannot be read.
    """
    place = event.position.pack()

    def judge(message: pulsar.Message) -> bool:
        return int(message.properties()["position"]) > place - ENTRY_PLACES

    found = find_place(client, stored, judge, budget)
    behind: tuple[int, ViewMessage] | None = None
    with closing(stored.read(client, found.number, len(stored), budget)) as messages:
        for number, message in messages:
            # The messages of one entry have one position: any of them may hold the event.
            if behind is not None and behind[0] != number:
                break
            read = read_message(message, position_of(message.message_id()), view, event)
            if read.row is not None:
                return ViewTrace(read, found.preceded)
            if behind is None and read.place >= place:
                behind = number, read
    if behind is not None:
        return ViewTrace(behind[1], found.preceded)
    nothing = found.message is None and not found.preceded
    return ViewTrace(None, found.preceded, emptied=nothing and stored.written)


def read_message(
    message: pulsar.Message, position: Position, view: View, event: LoggedEvent
) -> ViewMessage:
    """A message of a view, with the row of the event if it has it."""
    properties = message.properties()
    row, readable = None, True
    if not is_control(properties):
        try:
            batch = decode_payload(message.data(), properties, view.transformation)
        except (InvalidFrame, FormatError):
            readable = False
        else:
            row = _row_of(batch, event)
    return ViewMessage(
        position=position,
        place=int(properties["position"]),
        published_at=datetime.fromtimestamp(message.publish_timestamp() / 1e3, UTC),
        plan=int(properties["plan"]),
        delivery_epoch=int(properties["delivery_epoch"]),
        first_delivery=int(properties["delivery_sequence"]),
        row=row,
        readable=readable,
    )


def _row_of(batch: pa.RecordBatch, event: LoggedEvent) -> int | None:
    """The row of an event; every view keeps these two columns under their names."""
    (instrument,) = event.row.column("instrument").to_pylist()
    names = np.array(batch.column("instrument").to_pylist(), dtype=object)
    sequences = values_of(batch.column("sequence").cast(pa.uint64()), np.uint64)
    found = np.flatnonzero((names == instrument) & (sequences == event.number("sequence")))
    return int(found[0]) if len(found) else None


def _epoch_of(message: pulsar.Message) -> int:
    """The epoch of a message of the log."""
    properties = message.properties()
    if "epoch" in properties:
        return int(properties["epoch"])
    return int(values_of(read_frame(message.data()).column("epoch"), np.uint32)[-1])
