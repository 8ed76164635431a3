"""The sequencer: validates events, gives each the next number of its instrument, writes the log.

Delivery guarantee: each accepted input frame is in `sequenced` exactly once, in the order of its
partition; small frames of one kind that have piled up leave as one. What breaks the contract goes
to the dead-letter topic with its reason, once. Ticks are answered with heartbeats; when the numbers
cannot be continued, an epoch frame says so before the first event of the new epoch.
"""

import random
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar

import pulsar
import pyarrow as pa

from functions.operators.epoch import NewEpoch, new_epoch
from functions.operators.group import FrameGroup, merged
from functions.operators.heartbeat import ToldSequences
from functions.operators.sequence import InstrumentSequences, with_sequences
from functions.operators.tick import TickPacer
from functions.runtime.deadletters import dead_letter, trace_properties
from functions.runtime.function import FrameFunction, PartitionStage
from functions.runtime.inputs import Input
from functions.runtime.outputs import Output
from functions.runtime.sequence_log import (
    PARTITIONS_PROPERTY,
    Recovered,
    encode_snapshot,
    recover_sequences,
)
from functions.runtime.ticks import TickSender
from marketdata.control_frames import EPOCH, HEARTBEAT, NEXT_SEQUENCES, TICK
from marketdata.errors import InvalidFrame
from marketdata.frames import (
    MAX_FRAME_BYTES,
    compact_dictionaries,
    decode_frame,
    encode_frame,
    frame_kind,
    frame_properties,
)
from marketdata.positions import NO_POSITION, place_before
from marketdata.topics import partition_topic

IDLE_SNAPSHOT_INTERVAL_S = 60.0
"""Pace of snapshots while a partition gets heartbeats only: they bound how many are read again."""


class SequencerFunction(FrameFunction):
    """Deployed as `marketdata/functions/sequencer`."""

    name: ClassVar[str] = "sequencer"

    def setup(self) -> None:
        """Ticks are paced for all partitions together; nothing else is shared between them."""
        settings = self.settings
        self._ticks = TickSender(self.client, settings.topics.ingest, self.log)
        self._pacer = TickPacer(
            settings.partitions,
            settings.heartbeat_interval_s,
            random.random(),  # noqa: S311 - spreads load, protects nothing
            time.monotonic(),
        )

    def before_turn(self) -> None:
        """No plans here."""

    def after_turn(self, received: Collection[int]) -> None:
        """Send ticks to idle partitions, and where held events are due."""
        now_s = time.monotonic()
        for partition in received:
            self._pacer.received(partition, now_s)
        due_s = self.partitions_due(now_s)
        for partition in self._pacer.take_due(now_s, due_s, self.busy_partitions()):
            self._ticks.send(partition)
            self.reporter.counters["ticks"] += 1

    def due_in_s(self) -> float:
        """Until the next tick."""
        now_s = time.monotonic()
        return self._pacer.due_in_s(now_s, self.partitions_due(now_s))

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
        self._log = Output(partition_topic(topics.sequenced, partition), "sequencer")
        self._dead = Output(partition_topic(topics.deadletter, partition), "sequencer")
        self._sequences = InstrumentSequences()
        self._told = ToldSequences()
        self._new_epoch: NewEpoch | None = None
        self._snapshots = _Snapshots(function, partition_topic(topics.state, partition), partition)

    def recover(self) -> None:
        """Take the log over and rebuild the sequences; the dead letters reopen when needed."""
        if self._dead.broken:
            self._dead.close()
        if not self._log.broken:
            return
        self._log.open(self._function.client)
        try:
            found = recover_sequences(self._function.client, self._log, self._snapshots.topic)
        except BaseException:
            self._log.broken = True
            raise
        self._continue(found)
        self._function.log.info(
            "sequencer: partition %d continues after input %d with %d instruments in epoch %d"
            " (%d frames read)",
            self._partition,
            found.position,
            len(self._sequences),
            self._sequences.epoch,
            found.frames,
        )

    def apply(self, items: Sequence[Input]) -> None:
        """Sequence the inputs that the log and the dead letters lack; answer the last tick."""
        if self._new_epoch is not None:
            self._announce_epoch(self._new_epoch, items)
        events = [item for item in items if not _is_tick(item)]
        most = self._function.settings.max_rows
        for group in merged(self._accepted(events), max_rows=most, max_bytes=MAX_FRAME_BYTES):
            self._append(group)
        if items and _is_tick(items[-1]) and items[-1].position > self._log.position:
            self._answer(items[-1])

    def confirmed(self, output: Output, message_id: Any, items: Sequence[Input]) -> None:
        """Publish the snapshot that was waiting for its frame to be stored."""
        if output is self._log and items:
            self._snapshots.stored(items[-1].position, message_id)

    def tidy(self) -> None:
        """When all is stored, have a snapshot cover it: retention may remove an idle log."""
        self._snapshots.cover(self._log.position, self._sequences)

    def _continue(self, found: Recovered) -> None:
        """Go on from a recovered state, or anew in a higher epoch where that is not possible."""
        settings = self._function.settings
        self._sequences, self._told = found.sequences, ToldSequences()
        self._log.position = found.position
        self._snapshots.restart(found.position, found.message_id)
        self._new_epoch = new_epoch(
            found.sequences.epoch,
            lost=found.lost,
            floor=settings.epoch.floor,
            floor_reason=settings.epoch.reason,
            partitions=settings.partitions,
            recovered_partitions=found.partitions,
        )
        if self._new_epoch is not None:
            self._sequences = InstrumentSequences(self._new_epoch.epoch)
            self._function.reporter.error(
                f"partition {self._partition}: sequences start anew in epoch"
                f" {self._new_epoch.epoch}: {self._new_epoch.reason}"
            )

    def _announce_epoch(self, started: NewEpoch, items: Sequence[Input]) -> None:
        """Put the epoch frame into the log, just before the first input that the log lacks."""
        first = next((item for item in items if item.position > self._log.position), None)
        if first is None:
            return
        position = place_before(first.position)
        properties = {
            "kind": EPOCH,
            "count": "0",
            "position": str(position),
            "epoch": str(started.epoch),
            "reason": started.reason,
            PARTITIONS_PROPERTY: str(self._function.settings.partitions),
        }
        data = encode_frame(pa.RecordBatch.from_pylist([], NEXT_SEQUENCES)).to_pybytes()
        self._function.send(self._log, self._partition, (), data, properties, position=position)
        self._counters["epochs"] += 1
        self._new_epoch = None

    def _answer(self, tick: Input) -> None:
        """Answer a tick with a heartbeat: what comes next of what came since the last one."""
        properties = {
            "kind": HEARTBEAT,
            "count": "0",
            "position": str(tick.position),
            "epoch": str(self._sequences.epoch),
        }
        data = encode_frame(self._told.take(self._sequences)).to_pybytes()
        self._function.send(self._log, self._partition, (tick,), data, properties)
        self._counters["heartbeats"] += 1

    def _accepted(self, items: Sequence[Input]) -> Iterator[tuple[Input, str, pa.RecordBatch]]:
        """Good frames that the log lacks; bad ones are dead-lettered."""
        for item in items:
            batch = self._decoded(item)
            if batch is not None and item.position > self._log.position:
                yield item, frame_kind(batch), batch

    def _decoded(self, item: Input) -> pa.RecordBatch | None:
        try:
            batch = decode_frame(
                item.data,
                partition=self._partition,
                partitions=self._function.settings.partitions,
            )
            # An unused name in a dictionary must neither live on in the state nor grow a merge.
            return compact_dictionaries(batch)
        except InvalidFrame as error:
            self._reject(item, error.code, error.reason)
        except Exception as error:  # noqa: BLE001 - no input may stop the ones behind it
            self._reject(item, "undecodable", f"{type(error).__name__}: {error}")
        return None

    def _append(self, group: FrameGroup[Input]) -> None:
        batch = group.batch()
        sequenced = with_sequences(
            batch,
            group.kind,
            self._sequences.assign(batch),
            epoch=self._sequences.epoch,
            ts_sequenced_ns=time.time_ns(),
        )
        last = group.items[-1]
        properties = frame_properties(sequenced, group.kind)
        properties["position"] = str(last.position)
        properties.update(trace_properties(last))
        self._function.send(
            self._log,
            self._partition,
            group.items,
            encode_frame(sequenced).to_pybytes(),
            properties,
            event_timestamp_ms=int(properties["ts_event_last"]) // 1_000_000,
        )
        self._counters["events_in"] += batch.num_rows
        self._counters["events_out"] += batch.num_rows
        self._counters["frames_out"] += 1
        self._function.reporter.observe_latency(batch.column("ts_publish")[-1].value)
        self._snapshots.offer(last.position, self._sequences)

    def _reject(self, item: Input, code: str, reason: str) -> None:
        if self._dead.broken:
            self._dead.open(self._function.client)
        if item.position <= self._dead.position:
            return
        data, properties = dead_letter(
            item,
            function=self._function.name,
            source_topic=self._source_topic,
            code=code,
            reason=reason,
        )
        self._function.send(self._dead, self._partition, (item,), data, properties)
        self._counters["dead_letters"] += 1
        self._counters[f"dead_letters_{code}"] += 1
        self._function.log.warning(
            "sequencer: dead-lettered input %d of partition %d: %s",
            item.position,
            self._partition,
            reason,
        )


def _is_tick(item: Input) -> bool:
    """Whether an input only lets time pass; one with a payload is somebody's mistake, not ours."""
    return item.properties.get("kind") == TICK and not item.data


class _Snapshots:
    """Publishes the state now and then, each time after the frame it belongs to is stored."""

    def __init__(self, function: SequencerFunction, topic: str, partition: int) -> None:
        self.topic = topic
        self._function = function
        self._partition = partition
        self._producer: pulsar.Producer | None = None
        self._due = 0.0
        self._waiting: tuple[int, pa.RecordBatch] | None = None
        self._stored: tuple[int, pulsar.MessageId] | None = None
        self._covered = NO_POSITION
        self._events_through = NO_POSITION
        self._idle_due = 0.0

    def restart(self, position: int, message_id: pulsar.MessageId | None) -> None:
        """Begin anew after a recovery; None when the newest snapshot covers the whole log."""
        self._waiting = None
        self._stored = None if message_id is None else (position, message_id)
        self._events_through = position
        if message_id is None:
            self._covered = position

    def offer(self, position: int, sequences: InstrumentSequences) -> None:
        """Keep the state after a frame just sent, when a snapshot is due."""
        self._events_through = position
        if self._waiting is None and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._function.settings.snapshot_interval_s
            self._waiting = (position, sequences.snapshot())

    def stored(self, position: int, message_id: pulsar.MessageId) -> None:
        """A frame is stored: publish the state that was kept for it."""
        if message_id.ledger_id() < 0:  # a repeat that the broker dropped: it has no place
            return
        self._stored = (position, message_id)
        if self._waiting is not None and self._waiting[0] == position:
            state, self._waiting = self._waiting[1], None
            self._publish(state, position, message_id)

    def cover(self, position: int, sequences: InstrumentSequences) -> None:
        """Publish the state when nothing is under way and no snapshot has it yet.

        Heartbeats change nothing in the state, so those behind a snapshot are covered more rarely.
        """
        if (
            self._waiting is None
            and self._stored is not None
            and self._stored[0] == position != self._covered
            and (self._covered < self._events_through or time.monotonic() >= self._idle_due)
        ):
            self._publish(sequences.snapshot(), *self._stored)

    def _publish(self, state: pa.RecordBatch, position: int, message_id: pulsar.MessageId) -> None:
        try:
            if self._producer is None:
                self._producer = self._function.client.create_producer(
                    self.topic, send_timeout_millis=5_000
                )
            data, properties = encode_snapshot(
                state,
                position,
                message_id,
                partitions=self._function.settings.partitions,
            )
            self._producer.send_async(
                data,
                self._published,
                partition_key=str(self._partition),
                properties=properties,
            )
            self._covered = position
            self._idle_due = time.monotonic() + IDLE_SNAPSHOT_INTERVAL_S
        except pulsar.PulsarException as error:
            self._failed(f"{type(error).__name__}: {error}")

    def _published(self, result: Any, _: Any) -> None:
        if result != pulsar.Result.Ok:
            self._failed(str(result))

    def _failed(self, reason: str) -> None:
        # The next one will do: a snapshot is a shortcut. But somebody should know.
        self._covered = NO_POSITION
        self._function.reporter.counters["snapshot_failures"] += 1
        self._function.reporter.error(f"snapshot of partition {self._partition}: {reason}")
