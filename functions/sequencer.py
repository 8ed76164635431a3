"""The sequencer: validates events, gives each the next number of its instrument, writes the log.

Delivery guarantee: each accepted input frame is in `sequenced` exactly once, in the order of its
partition; small frames of one kind that have piled up leave as one. What breaks the contract goes
to the dead-letter topic with its reason, once. What is odd in the order of a source is treated as
its policy says and told on `control/ordering`, once. Ticks are answered with heartbeats; when the
numbers cannot be continued, an epoch frame says so before the first event of the new epoch.
"""

import random
import time
from collections.abc import Collection
from typing import ClassVar

from functions.operators.tick import TickPacer
from functions.runtime.function import FrameFunction, PartitionStage
from functions.runtime.ticks import TickSender
from functions.sequencing import SequencerStage


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
