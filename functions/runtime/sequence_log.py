"""The sequencer's state of one partition, rebuilt from the log it wrote.

A snapshot on the compacted topic of states says how things stood after one frame of the log; the
frames behind it are read and absorbed. The snapshot is only a shortcut: reading the whole log
gives the same state. It is written from confirmed frames, so one written late by a former owner
is older, never wrong.
"""

import time
from typing import Final, NamedTuple

import pulsar
import pyarrow as pa

from functions.operators.state import PartitionState
from functions.runtime.outputs import (
    POSITION_PROPERTY,
    READ_TIMEOUT_MS,
    STORED_TIMEOUT_S,
    NotYetReadable,
    Output,
    newest_message,
    position_property,
)
from marketdata.errors import InvalidFrame
from marketdata.frames import encode_frame, read_frame
from marketdata.ordering import ORDERING_PROPERTY
from marketdata.positions import NO_POSITION
from marketdata.topics import partition_index

REFUSED_PROPERTY: Final = "refused"
"""Message property of frames of the log: positions of inputs refused since the frame before."""


class Recovered(NamedTuple):
    """The state after the newest frame of the log.

    Attributes:
        position: of the last input that the log holds.
        message_id: of the newest frame read; None when the snapshot is the newest.
        frames: how many frames were read behind the snapshot.
        findings: what these frames say about the order of their sources, as they say it, by
            position; whether it was published as well is not known from the log.
        refused: positions of inputs that were dead-lettered for their order since the snapshot.
        lost: the end of the log is gone (retention removed it before a snapshot covered it), so
            numbers start anew in a new epoch.
    """

    state: PartitionState
    position: int
    message_id: pulsar.MessageId | None
    frames: int
    findings: dict[int, str]
    refused: set[int]
    lost: bool = False


def encode_snapshot(
    state: list[pa.RecordBatch], position: int, message_id: pulsar.MessageId
) -> tuple[bytes, dict[str, str]]:
    """Payload and properties of a snapshot taken after the log frame `message_id`.

    The payload is one Arrow stream for each batch, one after the other.
    """
    properties = {
        "position": str(position),
        "log_entry": f"{message_id.ledger_id()}:{message_id.entry_id()}",
        "instruments": str(state[0].num_rows),
    }
    streams = (encode_frame(batch, compression="zstd").to_pybytes() for batch in state)
    return b"".join(streams), properties


def recover_state(client: pulsar.Client, log: Output, state_topic: str) -> Recovered:
    """Rebuild the state of a partition whose log has just been taken over.

    Args:
        log: the opened output; nobody else can write to it any more.
        state_topic: the partition of the topic of snapshots.

    Raises:
        NotYetReadable: the newest frame did not become readable in time; open and try again.
        pulsar.PulsarException: the broker is away.
    """
    start, state, position = _newest_snapshot(client, state_topic, partition_index(log.topic))
    reader = client.create_reader(log.topic, start)
    try:
        return _absorb_rest(client, reader, log, state, position)
    finally:
        reader.close()


def _newest_snapshot(
    client: pulsar.Client, state_topic: str, partition: int
) -> tuple[pulsar.MessageId, PartitionState, int]:
    """Where to read on, and the state there; the start of the log when no snapshot can be used."""
    snapshot = newest_message(client, state_topic)
    if snapshot is not None:
        try:
            ledger_id, entry_id = map(int, snapshot.properties()["log_entry"].split(":"))
            # With its partition: without, the client takes it for older than the same entry, and
            # waits for a message behind the last one.
            start = pulsar.MessageId(partition, ledger_id, entry_id, -1)
            state = PartitionState.from_snapshot(_streams(snapshot.data()))
        except (InvalidFrame, KeyError, TypeError, ValueError):
            # Not one of ours, of another version, or damaged: the log says the same.
            return pulsar.MessageId.earliest, PartitionState(), NO_POSITION
        return start, state, position_property(snapshot)
    return pulsar.MessageId.earliest, PartitionState(), NO_POSITION


def _streams(data: bytes) -> list[pa.RecordBatch]:
    source = pa.BufferReader(data)
    batches = []
    try:
        while source.tell() < len(data):
            with pa.ipc.open_stream(source) as reader:
                batches.append(reader.read_next_batch())
                for _ in reader:
                    raise InvalidFrame("batch_count", "a stream of a snapshot holds one batch")
    except (pa.ArrowException, OSError) as error:
        raise InvalidFrame("not_arrow", f"the snapshot cannot be read: {error}") from error
    return batches


def _absorb_rest(
    client: pulsar.Client,
    reader: pulsar.Reader,
    log: Output,
    state: PartitionState,
    position: int,
) -> Recovered:
    frames = 0
    findings: dict[int, str] = {}
    refused: set[int] = set()
    newest: pulsar.MessageId | None = None
    deadline = time.monotonic() + STORED_TIMEOUT_S
    while True:
        while reader.has_message_available():
            message = reader.read_next(READ_TIMEOUT_MS)
            properties = message.properties()
            if POSITION_PROPERTY not in properties:
                continue  # written by somebody else before the sequencer owned the log
            place = position_property(message)
            state.absorb(read_frame(message.data()), properties, place)
            if ORDERING_PROPERTY in properties:
                findings[place] = properties[ORDERING_PROPERTY]
            if REFUSED_PROPERTY in properties:
                refused.update(map(int, properties[REFUSED_PROPERTY].split(",")))
            position = max(position, place)
            newest = message.message_id()
            frames += 1
            deadline = time.monotonic() + STORED_TIMEOUT_S
        # The broker knows of a frame a moment before it can be read: wait for it, or its
        # sequences would be given twice.
        if position >= log.position:
            return Recovered(state, position, newest, frames, findings, refused)
        if time.monotonic() > deadline:
            if not frames and newest_message(client, log.topic) is None:
                anew = PartitionState(epoch=state.sequences.epoch + 1)
                return Recovered(anew, log.position, None, 0, {}, set(), lost=True)
            raise NotYetReadable(f"{log.topic}: read up to {position}, stored is {log.position}")
        time.sleep(0.01)
