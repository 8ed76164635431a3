"""The sequencer's state of one partition, rebuilt from the log it wrote.

A snapshot on the compacted topic of states says how things stood after one frame of the log; the
frames behind it are read and absorbed. The snapshot is only a shortcut: reading the whole log
gives the same state. It is written from confirmed frames, so one written late by a former owner
is older, never wrong.
"""

import base64
import time
from typing import NamedTuple

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
from marketdata.frames import encode_frame, read_frame
from marketdata.positions import NO_POSITION


class Recovered(NamedTuple):
    """The state after the newest frame of the log.

    Attributes:
        position: of the last input that the log holds.
        frames: how many frames were read behind the snapshot.
    """

    sequences: InstrumentSequences
    position: int
    frames: int


def encode_snapshot(
    state: pa.RecordBatch, position: int, message_id: pulsar.MessageId
) -> tuple[bytes, dict[str, str]]:
    """Payload and properties of a snapshot taken after the log frame `message_id`."""
    properties = {
        "position": str(position),
        "log_message_id": base64.b64encode(message_id.serialize()).decode(),
        "instruments": str(state.num_rows),
    }
    return encode_frame(state).to_pybytes(), properties


def recover_sequences(client: pulsar.Client, log: Output, state_topic: str) -> Recovered:
    """Rebuild the state of a partition whose log has just been taken over.

    Args:
        log: the opened output; nobody else can write to it any more.
        state_topic: the partition of the topic of snapshots.

    Raises:
        NotYetReadable: the newest frame did not become readable in time; open and try again.
        pulsar.PulsarException: the broker is away.
    """
    snapshot = newest_message(client, state_topic)
    if snapshot is None:
        sequences, position, start = InstrumentSequences(), NO_POSITION, pulsar.MessageId.earliest
    else:
        sequences = InstrumentSequences.from_snapshot(read_frame(snapshot.data()))
        position = position_property(snapshot)
        start = pulsar.MessageId.deserialize(
            base64.b64decode(snapshot.properties()["log_message_id"])
        )
    reader = client.create_reader(log.topic, start)
    try:
        return _absorb_rest(reader, log, sequences, position)
    finally:
        reader.close()


def _absorb_rest(
    reader: pulsar.Reader, log: Output, sequences: InstrumentSequences, position: int
) -> Recovered:
    frames = 0
    deadline = time.monotonic() + STORED_TIMEOUT_S
    while True:
        while reader.has_message_available():
            message = reader.read_next(READ_TIMEOUT_MS)
            if POSITION_PROPERTY not in message.properties():
                continue  # written by somebody else before the sequencer owned the log
            batch = read_frame(message.data())
            sequences.absorb(batch.column("instrument"), batch.column("sequence").to_numpy())
            sequences.epoch = batch.column("epoch")[-1].as_py()
            position = max(position, position_property(message))
            frames += 1
            deadline = time.monotonic() + STORED_TIMEOUT_S
        # The broker knows of a frame a moment before it can be read: wait for it, or its
        # sequences would be given twice.
        if position >= log.position:
            return Recovered(sequences, position, frames)
        if time.monotonic() > deadline:
            raise NotYetReadable(f"{log.topic}: read up to {position}, stored is {log.position}")
        time.sleep(0.01)
