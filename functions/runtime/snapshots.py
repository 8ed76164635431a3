"""Snapshots of the sequencer's state, published now and then for whoever takes the partition over.

Each is published after the frame it belongs to is stored, and after everything that follows from
the log up to there is stored as well, because recovery does not read what a snapshot covers.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import pulsar
import pyarrow as pa

from functions.operators.state import PartitionState
from functions.runtime.function import FrameFunction
from functions.runtime.sequence_log import encode_snapshot
from marketdata.positions import NO_POSITION

IDLE_INTERVAL_S: Final = 60.0
"""Pace of snapshots while a partition gets heartbeats only: they bound how many are read again."""


class Snapshots:
    """Publishes the state of one partition.

    Args:
        function: whose connection and settings are used.
        topic: the partition of the topic of snapshots.
        partition: its number.
        settled: whether all that follows from the log up to a position is stored.
    """

    def __init__(
        self,
        function: FrameFunction,
        topic: str,
        partition: int,
        settled: Callable[[int], bool],
    ) -> None:
        self.topic = topic
        self._function = function
        self._partition = partition
        self._settled = settled
        self._producer: pulsar.Producer | None = None
        self._failing = False
        self._due = 0.0
        self._waiting: tuple[int, list[pa.RecordBatch]] | None = None
        self._waiting_id: pulsar.MessageId | None = None
        self._stored: tuple[int, pulsar.MessageId] | None = None
        self._covered = NO_POSITION
        self._changed_at = NO_POSITION
        self._idle_due = 0.0

    def restart(self, position: int, message_id: pulsar.MessageId | None) -> None:
        """Begin anew after a recovery; None when the newest snapshot covers the whole log."""
        self._waiting = self._waiting_id = None
        self._stored = None if message_id is None else (position, message_id)
        self._changed_at = position
        if message_id is None:
            self._covered = position

    def offer(self, position: int, state: PartitionState) -> None:
        """Keep the state after a frame just sent, when a snapshot is due."""
        self._changed_at = position
        if self._waiting is None and time.monotonic() >= self._due:
            self._due = time.monotonic() + self._function.settings.snapshot_interval_s
            self._waiting, self._waiting_id = (position, state.snapshot()), None

    def stored(self, position: int, message_id: pulsar.MessageId) -> None:
        """A frame is stored; the state kept for it may be published when all is settled."""
        is_waited_for = self._waiting is not None and self._waiting[0] == position
        if message_id.ledger_id() < 0:  # a repeat that the broker dropped: it has no place
            if is_waited_for:
                self._waiting = None  # the next one will do
            return
        self._stored = (position, message_id)
        if is_waited_for:
            self._waiting_id = message_id

    def settle(self) -> None:
        """Publish the waiting state if all up to it is stored."""
        if self._waiting is None or self._waiting_id is None:
            return
        position, state = self._waiting
        if self._settled(position):
            message_id, self._waiting, self._waiting_id = self._waiting_id, None, None
            self._publish(state, position, message_id)

    def cover(self, position: int, state: PartitionState) -> None:
        """Publish the state when nothing is under way and no snapshot has it yet.

        Heartbeats change nothing in the state, so those behind a snapshot are covered more rarely.
        """
        self.settle()
        if (
            self._waiting is None
            and self._stored is not None
            and self._stored[0] == position != self._covered
            and (self._covered < self._changed_at or time.monotonic() >= self._idle_due)
            and self._settled(position)
        ):
            self._publish(state.snapshot(), *self._stored)

    def _publish(
        self, state: list[pa.RecordBatch], position: int, message_id: pulsar.MessageId
    ) -> None:
        try:
            if self._failing and self._producer is not None:
                # The client leaves a producer unconnected for ever now and then.
                producer, self._producer = self._producer, None
                producer.close()
            self._failing = False
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
            self._idle_due = time.monotonic() + IDLE_INTERVAL_S
        except pulsar.PulsarException as error:
            self._failed(f"{type(error).__name__}: {error}")

    def _published(self, result: Any, _: Any) -> None:
        if result != pulsar.Result.Ok:
            self._failed(str(result))

    def _failed(self, reason: str) -> None:
        # The next one will do: a snapshot is a shortcut. But somebody should know.
        self._failing = True
        self._covered = NO_POSITION
        self._function.reporter.counters["snapshot_failures"] += 1
        self._function.reporter.error(f"snapshot of partition {self._partition}: {reason}")
