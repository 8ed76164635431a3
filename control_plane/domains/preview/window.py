"""Reading the last minutes of the log, within bounds; every call blocks.

Partitions are read one after the other, oldest event first. What is left of the bounds is shared
evenly among those that are still to be read, so that a busy partition cannot hide the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import pulsar
import pyarrow as pa

from control_plane.domains.explain.search import Budget, OutOfBounds, Stored, find_place
from marketdata.errors import InvalidFrame
from marketdata.frames import frame_kind, read_frame
from marketdata.history import HistoryTimeout
from marketdata.mixed import single_kinds
from marketdata.topics import partition_index

Bound = Literal["events", "bytes", "time"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be read.

    Attributes:
        begin_ms: when the first message was stored at the earliest; milliseconds since the epoch.
        seconds: from the first reading on.
    """

    begin_ms: int
    events: int
    size: int
    seconds: float


@dataclass
class PartitionRead:
    """How much of a partition's window was read.

    Attributes:
        until_ms: when the last message that was read was stored; None when none was.
        size: bytes.
        unreadable: frames that cannot be decoded; they were passed over.
        cut: which bound ended the reading before the window's end; None when none did.
    """

    partition: int
    until_ms: int | None = None
    frames: int = 0
    events: int = 0
    size: int = 0
    unreadable: int = 0
    cut: Bound | None = None


class Window:
    """The last minutes of the log.

    Args:
        partitions: what they hold; nothing that comes later is read.
        bounds: of all partitions together.

    Attributes:
        read: what was read of each partition.
    """

    def __init__(self, client: pulsar.Client, partitions: Sequence[Stored], bounds: Bounds) -> None:
        self._client = client
        self._partitions = partitions
        self._bounds = bounds
        self._deadline = time.monotonic() + bounds.seconds
        self.read = [PartitionRead(partition_index(stored.topic)) for stored in partitions]

    def frames(self) -> Iterator[tuple[pa.RecordBatch, str]]:
        """The frames of events with their kinds, those of several kinds run by run.

        Raises:
            pulsar.PulsarException: the broker is away or did not answer in time.
        """
        for number, (stored, read) in enumerate(zip(self._partitions, self.read, strict=True)):
            left = len(self._partitions) - number
            share = Bounds(
                self._bounds.begin_ms,
                (self._bounds.events - sum(each.events for each in self.read)) // left,
                (self._bounds.size - sum(each.size for each in self.read)) // left,
                max(0.0, (self._deadline - time.monotonic()) / left),
            )
            try:
                yield from self._partition(stored, read, share)
            except (OutOfBounds, HistoryTimeout):
                read.cut = "time"

    def _partition(
        self, stored: Stored, read: PartitionRead, share: Bounds
    ) -> Iterator[tuple[pa.RecordBatch, str]]:
        read.cut = _spent(read, share)
        if read.cut:
            return
        budget = Budget(timeout_s=share.seconds, messages=sys.maxsize, size=sys.maxsize)
        place = find_place(
            self._client, stored, lambda each: each.publish_timestamp() >= share.begin_ms, budget
        )
        with closing(stored.read(self._client, place.number, len(stored), budget)) as messages:
            for _, message in messages:
                read.cut = _spent(read, share)
                if read.cut:
                    return
                data = message.data()
                read.frames += 1
                read.size += len(data)
                read.until_ms = message.publish_timestamp()
                if message.properties().get("count") == "0":  # carries no event
                    continue
                try:
                    batch = read_frame(data)
                    kind = frame_kind(batch, mixed=True)
                except InvalidFrame:
                    read.unreadable += 1
                    continue
                read.events += batch.num_rows
                for one, run in single_kinds(kind, batch):
                    yield run, one


def _spent(read: PartitionRead, share: Bounds) -> Bound | None:
    """Which bound allows no more; None when all do."""
    if read.events >= share.events:
        return "events"
    if read.size >= share.size:
        return "bytes"
    return "time" if share.seconds <= 0 else None
