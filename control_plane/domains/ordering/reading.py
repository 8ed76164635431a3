"""Reading a partition of `control/ordering` from a place on, in batches; every call blocks.

A batch is bounded by messages and findings, so that one transaction stays short. One message may
exceed the second bound: it is stored whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import pulsar
import structlog

from control_plane.broker import newest_message
from control_plane.domains.ordering.intake import Intake, Place

MAX_FINDINGS = 5_000
MAX_MESSAGES = 200
RECEIVER_QUEUE = 16
FIRST_WAIT_MS = 500
FURTHER_WAIT_MS = 1
NEWEST_WAIT_MS = 5_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Adjacent messages of one partition and what they hold; `full` when more may be waiting."""

    messages: list[pulsar.Message]
    intake: Intake
    full: bool

    @property
    def last(self) -> Place:
        """Where the newest of them stands."""
        return place_of(self.messages[-1])


class PartitionReader:
    """Reads one partition behind a place.

    Raises:
        pulsar.PulsarException: from every call; make a new reader.
    """

    def __init__(
        self, client: pulsar.Client, topic: str, partition: int, after: Place | None
    ) -> None:
        self._partition = partition
        self._after = after
        if after is not None and self._is_gone(client, topic, after):
            # The topic is another one than that which was stored: made anew, or its cluster was.
            # Findings that are stored already are recognised by their ids.
            log.warning("the topic ends before what is stored: reading all of it", topic=topic)
            self._after = None
        start = pulsar.MessageId.earliest
        if self._after is not None:
            start = pulsar.MessageId(partition, *self._after)
        self._reader = client.create_reader(topic, start, receiver_queue_size=RECEIVER_QUEUE)

    def read(self) -> Batch | None:
        """What comes next; None when nothing does within half a second."""
        messages: list[pulsar.Message] = []
        intake = Intake()
        while True:
            wait_ms = FURTHER_WAIT_MS if messages else FIRST_WAIT_MS
            try:
                message = self._reader.read_next(timeout_millis=wait_ms)
            except pulsar.Timeout:
                return Batch(messages, intake, full=False) if messages else None
            place = place_of(message)
            if self._after is not None and place <= self._after:
                continue
            messages.append(message)
            intake.take(self._partition, place, message.data())
            if len(messages) >= MAX_MESSAGES or len(intake.findings) >= MAX_FINDINGS:
                return Batch(messages, intake, full=True)

    def close(self) -> None:
        """Close it; never raises."""
        try:
            self._reader.close()
        except pulsar.PulsarException as error:
            log.debug("reader did not close", partition=self._partition, error=repr(error))

    @staticmethod
    def _is_gone(client: pulsar.Client, topic: str, place: Place) -> bool:
        newest = newest_message(client, topic, timeout_ms=NEWEST_WAIT_MS)
        return newest is None or place_of(newest)[:2] < place[:2]


def single(partition: int, message: pulsar.Message) -> Batch:
    """One message as a batch."""
    intake = Intake()
    intake.take(partition, place_of(message), message.data())
    return Batch([message], intake, full=False)


def place_of(message: pulsar.Message) -> Place:
    """Where a message stands."""
    found = message.message_id()
    return Place(found.ledger_id(), found.entry_id(), found.batch_index())


def published_at(message: pulsar.Message) -> datetime:
    """When the broker took a message."""
    return datetime.fromtimestamp(message.publish_timestamp() / 1e3, UTC)
