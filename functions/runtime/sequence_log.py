"""The sequencer's state of one partition, rebuilt from the log it wrote.

A snapshot on the compacted topic of states says how things stood after one frame of the log; the
frames behind it are read and absorbed. The snapshot is only a shortcut: reading the whole log
gives the same state. It is written from confirmed frames, so one written late by a former owner
is older, never wrong.
"""

import time
from typing import Final, NamedTuple

import numpy as np
import pulsar
import pyarrow as pa

from functions.operators.sequence import InstrumentSequences
from functions.runtime.outputs import (
    POSITION_PROPERTY,
    READ_TIMEOUT_MS,
    STORED_TIMEOUT_S,
    NotYetReadable,
    Output,
    newest_message,
    position_property,
)
from marketdata.arrays import values_of
from marketdata.control_frames import EPOCH, is_control
from marketdata.errors import InvalidFrame
from marketdata.frames import encode_frame, read_frame
from marketdata.positions import NO_POSITION
from marketdata.topics import partition_index

PARTITIONS_PROPERTY: Final = "partitions"
"""Of snapshots and epoch frames: how many partitions the log had."""


class Recovered(NamedTuple):
    """The state after the newest frame of the log.

    Attributes:
        position: of the last input that the log holds.
        message_id: of the newest frame read; None when the snapshot is the newest.
        frames: how many frames were read behind the snapshot.
        lost: the end of the log is gone (retention removed it before a snapshot covered it), so
            the numbers cannot be continued.
        partitions: how many the log had when the state was written; None when that is not known.
    """

    sequences: InstrumentSequences
    position: int
    message_id: pulsar.MessageId | None
    frames: int
    lost: bool = False
    partitions: int | None = None


def encode_snapshot(
    state: pa.RecordBatch, position: int, message_id: pulsar.MessageId, *, partitions: int
) -> tuple[bytes, dict[str, str]]:
    """Payload and properties of a snapshot taken after the log frame `message_id`.

    Args:
        state: `InstrumentSequences.snapshot`.
        position: of the last input that the frame holds.
        message_id: of the frame.
        partitions: how many the log has.
    """
    properties = {
        "position": str(position),
        "log_entry": f"{message_id.ledger_id()}:{message_id.entry_id()}",
        "instruments": str(state.num_rows),
        PARTITIONS_PROPERTY: str(partitions),
    }
    return encode_frame(state, compression="zstd").to_pybytes(), properties


def recover_sequences(client: pulsar.Client, log: Output, state_topic: str) -> Recovered:
    """Rebuild the state of a partition whose log has just been taken over.

    Args:
        log: the opened output; nobody else can write to it any more.
        state_topic: the partition of the topic of snapshots.

    Raises:
        NotYetReadable: the newest frame did not become readable in time; open and try again.
        pulsar.PulsarException: the broker is away.
    """
    snapshot = _newest_snapshot(client, state_topic, partition_index(log.topic))
    reader = client.create_reader(log.topic, snapshot.start)
    try:
        return _absorb_rest(client, reader, log, snapshot)
    finally:
        reader.close()


class _Snapshot(NamedTuple):
    """The state at a place of the log, from which it is read on."""

    start: pulsar.MessageId
    sequences: InstrumentSequences
    position: int
    partitions: int | None


def _newest_snapshot(client: pulsar.Client, state_topic: str, partition: int) -> _Snapshot:
    """The newest snapshot; the start of the log when none can be used."""
    nothing = _Snapshot(pulsar.MessageId.earliest, InstrumentSequences(), NO_POSITION, None)
    snapshot = newest_message(client, state_topic)
    if snapshot is not None:
        try:
            properties = snapshot.properties()
            ledger_id, entry_id = map(int, properties["log_entry"].split(":"))
            # With its partition: without, the client takes it for older than the same entry, and
            # waits for a message behind the last one.
            start = pulsar.MessageId(partition, ledger_id, entry_id, -1)
            sequences = InstrumentSequences.from_snapshot(read_frame(snapshot.data()))
            partitions = properties.get(PARTITIONS_PROPERTY)
        except (InvalidFrame, KeyError, ValueError):
            # Not one of ours, or damaged: the log says the same.
            return nothing
        known = None if partitions is None else int(partitions)
        return _Snapshot(start, sequences, position_property(snapshot), known)
    return nothing


def _absorbed(sequences: InstrumentSequences, batch: pa.RecordBatch) -> InstrumentSequences:
    """The state after a frame of events; those of a new epoch know nothing of the one before."""
    epoch = int(batch.column("epoch")[-1].as_py())
    if epoch != sequences.epoch:
        sequences = InstrumentSequences(epoch)
    sequences.absorb(batch.column("instrument"), values_of(batch.column("sequence"), np.uint64))
    return sequences


def _absorb_rest(
    client: pulsar.Client,
    reader: pulsar.Reader,
    log: Output,
    snapshot: _Snapshot,
) -> Recovered:
    _, sequences, position, partitions = snapshot
    frames = 0
    newest: pulsar.MessageId | None = None
    deadline = time.monotonic() + STORED_TIMEOUT_S
    while True:
        while reader.has_message_available():
            message = reader.read_next(READ_TIMEOUT_MS)
            if POSITION_PROPERTY not in message.properties():
                continue  # written by somebody else before the sequencer owned the log
            if not is_control(message.properties()):
                sequences = _absorbed(sequences, read_frame(message.data()))
            elif message.properties()["kind"] == EPOCH:
                sequences = InstrumentSequences(int(message.properties()["epoch"]))
                partitions = int(message.properties()[PARTITIONS_PROPERTY])
            position = max(position, position_property(message))
            newest = message.message_id()
            frames += 1
            deadline = time.monotonic() + STORED_TIMEOUT_S
        # The broker knows of a frame a moment before it can be read: wait for it, or its
        # sequences would be given twice.
        if position >= log.position:
            return Recovered(sequences, position, newest, frames, partitions=partitions)
        if time.monotonic() > deadline:
            if not frames and newest_message(client, log.topic) is None:
                return Recovered(sequences, log.position, None, 0, lost=True, partitions=partitions)
            raise NotYetReadable(f"{log.topic}: read up to {position}, stored is {log.position}")
        time.sleep(0.01)
