"""The sequencer: validates events, gives each the next number of its instrument, writes the log.

Delivery guarantee: each accepted input frame is in `sequenced` exactly once, in the order of its
partition. What breaks the contract goes to the dead-letter topic with its reason, once.
"""

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import pulsar
import pyarrow as pa

from functions.operators.sequence import InstrumentSequences, with_sequences
from functions.runtime.deadletters import dead_letter_properties
from functions.runtime.function import FrameFunction, PartitionStage
from functions.runtime.inputs import Input
from functions.runtime.outputs import Output
from functions.runtime.sequence_log import encode_snapshot, recover_sequences
from marketdata.errors import InvalidFrame
from marketdata.frames import decode_frame, encode_frame, frame_kind, frame_properties
from marketdata.topics import partition_topic


class SequencerFunction(FrameFunction):
    """Deployed as `marketdata/functions/sequencer`."""

    name: ClassVar[str] = "sequencer"

    def setup(self) -> None:
        """Nothing is shared between partitions."""

    def before_turn(self) -> None:
        """No plans here."""

    def stage(self, partition: int) -> PartitionStage:
        """The sequencing of one partition."""
        return SequencerStage(self, partition)


class SequencerStage(PartitionStage):
    """One partition: its log, its dead letters, its sequences."""

    def __init__(self, function: SequencerFunction, partition: int) -> None:
        topics = function.settings.topics
        self._function = function
        self._partition = partition
        self._counters = function.reporter.counters
        self._source_topic = partition_topic(topics.ingest, partition)
        self._state_topic = partition_topic(topics.state, partition)
        self._log = Output(partition_topic(topics.sequenced, partition), "sequencer")
        self._dead = Output(partition_topic(topics.deadletter, partition), "sequencer")
        self._sequences = InstrumentSequences()
        self._snapshots: pulsar.Producer | None = None
        self._snapshot_due = 0.0
        self._snapshot: tuple[int, pa.RecordBatch] | None = None

    def recover(self) -> None:
        """Take the log over and rebuild the sequences; the dead letters reopen when needed."""
        if self._dead.broken:
            self._dead.close()
        if not self._log.broken:
            return
        self._snapshot = None
        self._log.open(self._function.client)
        try:
            found = recover_sequences(self._function.client, self._log, self._state_topic)
        except BaseException:
            self._log.broken = True
            raise
        self._sequences = found.sequences
        self._log.position = found.position
        self._function.log.info(
            "sequencer: partition %d continues after input %d with %d instruments in epoch %d"
            " (%d frames read)",
            self._partition,
            found.position,
            len(found.sequences),
            found.sequences.epoch,
            found.frames,
        )

    def apply(self, items: Sequence[Input]) -> None:
        """Sequence the inputs that the log and the dead letters lack."""
        for item in items:
            try:
                batch = decode_frame(
                    item.data,
                    partition=self._partition,
                    partitions=self._function.settings.partitions,
                )
            except InvalidFrame as error:
                self._reject(item, error.code, error.reason)
            except Exception as error:  # noqa: BLE001 - no input may stop the ones behind it
                self._reject(item, "undecodable", f"{type(error).__name__}: {error}")
            else:
                self._accept(item, batch)

    def confirmed(self, output: Output, message_id: Any, items: Sequence[Input]) -> None:
        """Publish the snapshot that was waiting for its frame to be stored."""
        if output is not self._log or self._snapshot is None:
            return
        position, state = self._snapshot
        if items[-1].position == position:
            self._snapshot = None
            self._publish_snapshot(state, position, message_id)

    def tidy(self) -> None:
        """Nothing to tidy: the outputs are always the same two."""

    def _accept(self, item: Input, batch: pa.RecordBatch) -> None:
        if item.position <= self._log.position:
            return
        kind = frame_kind(batch)
        sequenced = with_sequences(
            batch,
            kind,
            self._sequences.assign(batch),
            epoch=self._sequences.epoch,
            ts_sequenced_ns=time.time_ns(),
        )
        properties = frame_properties(sequenced, kind)
        properties["position"] = str(item.position)
        if "traceparent" in item.properties:
            properties["traceparent"] = item.properties["traceparent"]
        self._function.send(
            self._log,
            self._partition,
            (item,),
            encode_frame(sequenced).to_pybytes(),
            properties,
            event_timestamp_ms=int(properties["ts_event_last"]) // 1_000_000,
        )
        self._counters["events_in"] += batch.num_rows
        self._counters["events_out"] += batch.num_rows
        self._counters["frames_out"] += 1
        if self._snapshot is None and time.monotonic() >= self._snapshot_due:
            self._snapshot_due = time.monotonic() + self._function.settings.snapshot_interval_s
            self._snapshot = (item.position, self._sequences.snapshot())

    def _reject(self, item: Input, code: str, reason: str) -> None:
        if self._dead.broken:
            self._dead.open(self._function.client)
        if item.position <= self._dead.position:
            return
        self._function.send(
            self._dead,
            self._partition,
            (item,),
            item.data,
            dead_letter_properties(
                item,
                function=self._function.name,
                source_topic=self._source_topic,
                code=code,
                reason=reason,
            ),
        )
        self._counters["dead_letters"] += 1
        self._counters[f"dead_letters_{code}"] += 1
        self._function.log.warning(
            "sequencer: dead-lettered input %d of partition %d: %s",
            item.position,
            self._partition,
            reason,
        )

    def _publish_snapshot(
        self, state: pa.RecordBatch, position: int, message_id: pulsar.MessageId
    ) -> None:
        try:
            if self._snapshots is None:
                self._snapshots = self._function.client.create_producer(
                    self._state_topic, send_timeout_millis=5_000
                )
            data, properties = encode_snapshot(state, position, message_id)
            self._snapshots.send_async(
                data, lambda *_: None, partition_key=str(self._partition), properties=properties
            )
        except pulsar.PulsarException as error:  # the next one will do: it is a shortcut only
            self._function.reporter.error(f"snapshot: {type(error).__name__}: {error}")
