"""Where an instrument stands, read from the log itself: its newest events, not a copy of them.

The sequencer's newest snapshot of the instrument's partition says how things stood seconds ago;
the frames of the log behind it bring that up to now. When the newest event is not among them, the
frames before the snapshot are looked through for it. All of it is bounded in time and frames.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pulsar
import pyarrow as pa
import pyarrow.compute as pc

from control_plane.broker import newest_message
from marketdata.arrays import codes_of, values_of
from marketdata.connection import partition_topics
from marketdata.control_frames import EPOCH
from marketdata.frames import read_frame
from marketdata.partitioning import partition_of
from marketdata.topics import SEQUENCED_EVENTS, SEQUENCER_STATE, partition_topic

MAX_FRAMES = 2_000
LOOK_BACK_SECONDS = (10, 60, 600, 6_000, 60_000, 600_000)
RECEIVER_QUEUE = 32


@dataclass(slots=True)
class SourceStand:
    """The newest of one source: its highest number (None: it gives none) and event time."""

    source_sequence: int | None
    ts_event_ns: int

    def absorb(
        self,
        ts_event_ns: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.uint64],
        ts_numbered_ns: npt.NDArray[np.int64],
    ) -> None:
        """Take in events of one frame: all event times, and numbers with theirs, in row order.

        A number of 0 or 1 that is newer than all before means that the source counts anew.
        """
        begin = 0
        for row in np.flatnonzero(numbers <= 1):
            before = int(ts_numbered_ns[:row].max(initial=self.ts_event_ns))
            highest = int(numbers[begin:row].max(initial=self.source_sequence or 0))
            if ts_numbered_ns[row] > before and numbers[row] <= highest:
                begin, self.source_sequence = int(row), None
        if len(numbers):
            highest = int(numbers[begin:].max())
            self.source_sequence = max(highest, self.source_sequence or 0)
        self.ts_event_ns = max(self.ts_event_ns, int(ts_event_ns.max()))


@dataclass(slots=True)
class InstrumentStand:
    """How an instrument stands after the frames absorbed so far.

    Attributes:
        epoch, sequence: of its newest event; 0 before the first.
        ts_sequenced_ns: when that was sequenced; None when it is older than what was read.
        sources: by name.
    """

    instrument: str
    epoch: int = 0
    sequence: int = 0
    ts_sequenced_ns: int | None = None
    sources: dict[str, SourceStand] = field(default_factory=dict)

    def absorb(self, batch: pa.RecordBatch) -> None:
        """Take in a frame of the log; frames come in log order."""
        column = batch.column("instrument")
        names = column.dictionary.to_pylist()
        if self.instrument not in names:
            return
        rows = np.flatnonzero(codes_of(column) == names.index(self.instrument))
        if not len(rows):
            return
        last = rows[-1]
        self.sequence = int(values_of(batch.column("sequence"), np.uint64)[last])
        self.epoch = int(values_of(batch.column("epoch"), np.uint32)[last])
        self.ts_sequenced_ns = int(values_of(batch.column("ts_sequenced"), np.int64)[last])
        self._absorb_sources(batch.take(pa.array(rows)))

    def absorb_snapshot(self, sequences: pa.RecordBatch, pairs: pa.RecordBatch | None) -> None:
        """Begin with a snapshot of the sequencer's state.

        Args:
            sequences: `instrument`, `sequence`; the epoch in the metadata.
            pairs: `source`, `instrument`, `last` (its highest number), `newest_ns`; of sources
                that number their events. None: the snapshot does not tell.
        """
        self.epoch = int(sequences.schema.metadata[b"epoch"])
        for row in self._rows_of(sequences):
            self.sequence = row["sequence"]
        for row in () if pairs is None else self._rows_of(pairs):
            self.sources[row["source"]] = SourceStand(row["last"], row["newest_ns"])

    def _rows_of(self, batch: pa.RecordBatch) -> list[dict[str, Any]]:
        return list(batch.filter(pc.equal(batch.column("instrument"), self.instrument)).to_pylist())

    def complete(self, earlier: InstrumentStand) -> None:
        """Fill in what a snapshot leaves out from the frames up to it."""
        if (earlier.epoch, earlier.sequence) == (self.epoch, self.sequence):
            self.ts_sequenced_ns = earlier.ts_sequenced_ns
        self.sources = {**earlier.sources, **self.sources}

    def start_anew(self, epoch: int) -> None:
        """The partition's sequences begin again."""
        if epoch > self.epoch:
            self.epoch, self.sequence, self.ts_sequenced_ns = epoch, 0, None

    def _absorb_sources(self, batch: pa.RecordBatch) -> None:
        source = batch.column("source")
        codes = codes_of(source)
        ts_event = values_of(batch.column("ts_event"), np.int64)
        numbers = batch.column("source_sequence")
        numbered = numbers.is_valid().to_numpy(zero_copy_only=False)
        values = values_of(numbers, np.uint64)
        for code in np.unique(codes):
            name = source.dictionary[code].as_py()
            known = self.sources.setdefault(name, SourceStand(None, -1))
            of_source = np.flatnonzero(codes == code)
            with_number = of_source[numbered[of_source]]
            known.absorb(ts_event[of_source], values[with_number], ts_event[with_number])


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of an instrument.

    Attributes:
        complete: the end of the log was reached; else the log moved faster than could be read
            within the bounds, and `stand` is of a moment before now.
        frames: how many frames of the log were read behind the snapshot.
    """

    partition: int
    stand: InstrumentStand
    complete: bool
    frames: int


def read_instrument(client: pulsar.Client, instrument: str, *, timeout_s: float) -> Reading:
    """How an instrument stands now. Blocks.

    Raises:
        TopicNotReady: the topology is not applied.
        pulsar.PulsarException: the broker is away or did not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    partition = partition_of(instrument, len(partition_topics(client, SEQUENCED_EVENTS)))
    topic = partition_topic(SEQUENCED_EVENTS, partition)
    stand = InstrumentStand(instrument)
    start, moment_ms = _begin(client, partition, stand, timeout_ms=_left_ms(deadline))
    reader = client.create_reader(topic, start, receiver_queue_size=RECEIVER_QUEUE)
    frames = 0
    try:
        while reader.has_message_available():
            if frames >= MAX_FRAMES or time.monotonic() >= deadline:
                return Reading(partition, stand, complete=False, frames=frames)
            message = reader.read_next(timeout_millis=_left_ms(deadline))
            frames += 1
            _take(stand, message)
    finally:
        reader.close()
    if stand.sequence and stand.ts_sequenced_ns is None:
        _look_back(client, topic, stand, until=start, moment_ms=moment_ms, deadline=deadline)
    return Reading(partition, stand, complete=True, frames=frames)


def _begin(
    client: pulsar.Client, partition: int, stand: InstrumentStand, *, timeout_ms: int
) -> tuple[pulsar.MessageId, int]:
    """Where in the log to read on, and the snapshot's time in milliseconds.

    The start of the log, and 0, when no snapshot can be used.
    """
    topic = partition_topic(SEQUENCER_STATE, partition)
    snapshot = newest_message(client, topic, timeout_ms=timeout_ms)
    if snapshot is None:
        return pulsar.MessageId.earliest, 0
    try:
        ledger_id, entry_id = map(int, snapshot.properties()["log_entry"].split(":"))
        batches = _streams(snapshot.data())
        stand.absorb_snapshot(batches[0], batches[1] if len(batches) > 1 else None)
    except (pa.ArrowException, OSError, IndexError, KeyError, TypeError, ValueError):
        return pulsar.MessageId.earliest, 0
    # With its partition: without, the client takes it for older than the same entry, and waits
    # for a message behind the last one.
    message_id = pulsar.MessageId(partition, ledger_id, entry_id, -1)
    return message_id, snapshot.publish_timestamp()


def _look_back(
    client: pulsar.Client,
    topic: str,
    stand: InstrumentStand,
    *,
    until: pulsar.MessageId,
    moment_ms: int,
    deadline: float,
) -> None:
    """Find the newest event in ever longer stretches of the log before a snapshot.

    Nothing changes when it is further back than can be read.
    """
    last = (until.ledger_id(), until.entry_id())
    frames = 0
    for seconds in LOOK_BACK_SECONDS:
        earlier = InstrumentStand(stand.instrument)
        reader = client.create_reader(
            topic, pulsar.MessageId.earliest, receiver_queue_size=RECEIVER_QUEUE
        )
        try:
            reader.seek(moment_ms - 1000 * seconds)
            place = (-1, -1)
            while place < last:
                if frames >= MAX_FRAMES or time.monotonic() >= deadline:
                    return
                message = reader.read_next(timeout_millis=_left_ms(deadline))
                found = message.message_id()
                place = (found.ledger_id(), found.entry_id())
                frames += 1
                if place <= last:
                    _take(earlier, message)
        except pulsar.Timeout:
            return
        finally:
            reader.close()
        if earlier.sequence:
            stand.complete(earlier)
            return


def _streams(data: bytes) -> list[pa.RecordBatch]:
    """The batches of a snapshot: one Arrow stream each, one after the other."""
    source = pa.BufferReader(data)
    batches = []
    while source.tell() < len(data):
        with pa.ipc.open_stream(source) as reader:
            batches += reader
    return batches


def _take(stand: InstrumentStand, message: pulsar.Message) -> None:
    properties = message.properties()
    if properties.get("kind") == EPOCH:
        stand.start_anew(int(properties["epoch"]))
    # A count of 0 is a heartbeat or the like; what has no position is not the sequencer's.
    elif properties.get("count") != "0" and "position" in properties:
        stand.absorb(read_frame(message.data()))


def _left_ms(deadline: float) -> int:
    return max(1, int((deadline - time.monotonic()) * 1000))
