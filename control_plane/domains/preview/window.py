"""Reading the last minutes of the log, within bounds; every call blocks.

Partitions are read one after the other, oldest event first. What is left of the bounds is shared
evenly among those that are still to be read, so that a busy partition cannot hide the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import pulsar
import pyarrow as pa

from marketdata.errors import InvalidFrame
from marketdata.frames import frame_kind, read_frame
from marketdata.topics import partition_index

Bound = Literal["events", "bytes", "time"]

RECEIVER_QUEUE = 8
"""A frame may have megabytes."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may be read.

    Attributes:
        begin_ms, end_ms: when messages were stored; milliseconds since the epoch, end excluded.
        seconds: from the first reading on.
    """

    begin_ms: int
    end_ms: int
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
        topics: of its partitions.
        bounds: of all partitions together.

    Attributes:
        read: what was read of each partition.
    """

    def __init__(self, client: pulsar.Client, topics: Sequence[str], bounds: Bounds) -> None:
        self._client = client
        self._topics = topics
        self._bounds = bounds
        self._deadline = time.monotonic() + bounds.seconds
        self.read = [PartitionRead(partition_index(topic)) for topic in topics]

    def frames(self) -> Iterator[tuple[pa.RecordBatch, str]]:
        """The frames of events with their kinds.

        Raises:
            pulsar.PulsarException: the broker is away or did not answer in time.
        """
        for number, (topic, read) in enumerate(zip(self._topics, self.read, strict=True)):
            left = len(self._topics) - number
            now = time.monotonic()
            share = Bounds(
                self._bounds.begin_ms,
                self._bounds.end_ms,
                (self._bounds.events - sum(each.events for each in self.read)) // left,
                (self._bounds.size - sum(each.size for each in self.read)) // left,
                (self._deadline - now) / left,
            )
            yield from self._partition(topic, read, share, now + share.seconds)

    def _partition(
        self, topic: str, read: PartitionRead, share: Bounds, deadline: float
    ) -> Iterator[tuple[pa.RecordBatch, str]]:
        read.cut = _spent(read, share, deadline)
        if read.cut:
            return
        opened = self._client.create_reader(
            topic, pulsar.MessageId.earliest, receiver_queue_size=RECEIVER_QUEUE
        )
        with closing(opened) as reader:
            reader.seek(share.begin_ms)
            while reader.has_message_available():
                read.cut = _spent(read, share, deadline)
                if read.cut:
                    return
                try:
                    message = reader.read_next(max(1, int((deadline - time.monotonic()) * 1000)))
                except pulsar.Timeout:
                    continue
                if message.publish_timestamp() >= share.end_ms:
                    return
                if message.publish_timestamp() < share.begin_ms:
                    continue
                data = message.data()
                read.frames += 1
                read.size += len(data)
                read.until_ms = message.publish_timestamp()
                if message.properties().get("count") == "0":  # carries no event
                    continue
                try:
                    batch = read_frame(data)
                    kind = frame_kind(batch)
                except InvalidFrame:
                    read.unreadable += 1
                    continue
                read.events += batch.num_rows
                yield batch, kind


def _spent(read: PartitionRead, share: Bounds, deadline: float) -> Bound | None:
    """Which bound allows no more; None when all do."""
    if read.events >= share.events:
        return "events"
    if read.size >= share.size:
        return "bytes"
    return "time" if time.monotonic() >= deadline else None
