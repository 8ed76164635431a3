"""What Pulsar's admin API tells about topics, cursors and functions, as typed values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]

_POSITION = re.compile(r"(\d+):(-?\d+)")


@dataclass(frozen=True, slots=True)
class MessagePosition:
    """A message id; `partition` is the index within a partitioned topic, -1 for a plain topic."""

    ledger_id: int
    entry_id: int
    partition: int = -1

    def body(self) -> Json:
        """As the admin API takes it."""
        return {
            "ledgerId": self.ledger_id,
            "entryId": self.entry_id,
            "partitionIndex": self.partition,
        }


StartPosition = Literal["earliest", "latest"] | MessagePosition


@dataclass(frozen=True, slots=True)
class ConnectedConsumer:
    """A client that reads under a subscription; times are 0 before the first message."""

    name: str
    address: str
    delivered_messages: int
    last_delivered_ms: int
    last_acknowledged_ms: int
    rate_out: float = 0.0
    rate_redelivered: float = 0.0


@dataclass(frozen=True, slots=True)
class SubscriptionStats:
    """A cursor's state. `backlog_messages` counts frames, not events; rates are per second.

    `oldest_backlog_published_ms` is told only where it was asked for, and 0 without a backlog.
    """

    backlog_messages: int
    backlog_bytes: int
    oldest_backlog_published_ms: int
    consumers: int
    delivered_messages: int
    rate_out: float
    unacknowledged_messages: int
    kind: str
    durable: bool = True
    rate_redelivered: float = 0.0
    last_acknowledged_ms: int = 0
    connected: tuple[ConnectedConsumer, ...] = ()
    active: str = ""
    """Of a Failover subscription: the name of the consumer that gets the messages."""


@dataclass(frozen=True, slots=True)
class ConnectedProducer:
    """A producer on a topic; `properties` are those it was opened with."""

    name: str
    address: str
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TopicStats:
    """A topic's counters since the broker loaded it; `partitions` holds them for each partition."""

    messages_in: int
    bytes_in: int
    rate_in: float
    rate_out: float
    storage_bytes: int
    backlog_bytes: int
    producers: int
    subscriptions: Mapping[str, SubscriptionStats]
    partitions: Mapping[int, TopicStats]
    connected_producers: tuple[ConnectedProducer, ...] = ()

    def cursors(self, subscription: str) -> dict[int, SubscriptionStats]:
        """The cursor of a subscription in each partition that has one."""
        return {
            number: partition.subscriptions[subscription]
            for number, partition in self.partitions.items()
            if subscription in partition.subscriptions
        }


@dataclass(frozen=True, slots=True)
class InstanceStatus:
    """One instance of a function; `error` is why it does not run, or its latest exception."""

    instance: int
    running: bool
    error: str
    restarts: int
    worker: str
    received: int
    user_exceptions: int
    system_exceptions: int


@dataclass(frozen=True, slots=True)
class FunctionStatus:
    """What the functions worker says about the instances of one function."""

    expected: int
    running: int
    instances: tuple[InstanceStatus, ...]

    @property
    def all_running(self) -> bool:
        """Whether there is an instance and none is down."""
        return self.expected > 0 and self.running >= self.expected


def instance_status(found: Json) -> InstanceStatus:
    """One entry of `instances` in a function's status."""
    status = found.get("status", {})
    problems = [status.get("error") or ""]
    for kind in ("latestSystemExceptions", "latestUserExceptions"):
        problems += [str(each.get("exceptionString", "")) for each in status.get(kind) or ()][-1:]
    return InstanceStatus(
        instance=int(found.get("instanceId", 0)),
        running=bool(status.get("running", False)),
        error=next((each for each in problems if each), ""),
        restarts=int(status.get("numRestarts", 0)),
        worker=str(status.get("workerId", "")),
        received=int(status.get("numReceived", 0)),
        user_exceptions=int(status.get("numUserExceptions", 0)),
        system_exceptions=int(status.get("numSystemExceptions", 0)),
    )


@dataclass(frozen=True, slots=True)
class StoredEntries:
    """What a partition holds.

    Attributes:
        ledgers: id and number of entries that can be read of each, in log order.
        written: whether it ever held an entry; also when retention has removed them all.
    """

    ledgers: tuple[tuple[int, int], ...] = ()
    written: bool = False


@dataclass(frozen=True, slots=True)
class CursorPlace:
    """Where a cursor stands in a partition.

    Attributes:
        acknowledged: ledger and entry of the last message before which nothing waits.
        stored: what the partition holds.
        singly: what is acknowledged beyond that, as ranges: behind the first position, up to and
            with the second.
        next_read: ledger and entry of what is sent to a client next, be it there or not.
        newest: of the last message that is there.
    """

    acknowledged: tuple[int, int]
    stored: StoredEntries
    singly: tuple[tuple[tuple[int, int], tuple[int, int]], ...] = ()
    next_read: tuple[int, int] = (-1, -1)
    newest: tuple[int, int] = (-1, -1)


def position(found: str) -> tuple[int, int]:
    """A position as the broker writes it.

    >>> position("7:-1")
    (7, -1)
    """
    ledger, _, entry = found.partition(":")
    return int(ledger), int(entry)


def position_ranges(found: str) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """Ranges of positions as the broker writes them.

    >>> position_ranges("[(7:3..7:5],(9:-1..9:0]]")
    (((7, 3), (7, 5)), ((9, -1), (9, 0)))
    """
    positions = [(int(ledger), int(entry)) for ledger, entry in _POSITION.findall(found)]
    return tuple(zip(positions[::2], positions[1::2], strict=True))


def stored_entries(found: Json) -> StoredEntries:
    """The entries of a partition, of its internal statistics.

    Their number in the ledger being written is not told; its last confirmed entry is.
    """
    counts = {int(each["ledgerId"]): int(each["entries"]) for each in found["ledgers"]}
    ledger, _, entry = str(found["lastConfirmedEntry"]).partition(":")
    if int(ledger) in counts:
        counts[int(ledger)] = int(entry) + 1
    return StoredEntries(
        ledgers=tuple(sorted(counts.items())), written=int(entry) >= 0 or any(counts.values())
    )


def cursor_places(found: Json) -> dict[str, CursorPlace]:
    """Where each cursor of a partition stands, of its internal statistics."""
    stored = stored_entries(found)
    newest = position(str(found["lastConfirmedEntry"]))
    return {
        name: CursorPlace(
            position(str(cursor["markDeletePosition"])),
            stored,
            position_ranges(str(cursor["individuallyDeletedMessages"])),
            position(str(cursor["readPosition"])),
            newest,
        )
        for name, cursor in found["cursors"].items()
    }


def topic_stats(found: Json) -> TopicStats:
    """The statistics of a topic or of a partition."""
    partitions = found.get("partitions") or {}
    return TopicStats(
        messages_in=int(found.get("msgInCounter", 0)),
        bytes_in=int(found.get("bytesInCounter", 0)),
        rate_in=float(found.get("msgRateIn", 0)),
        rate_out=float(found.get("msgRateOut", 0)),
        storage_bytes=int(found.get("storageSize", 0)),
        backlog_bytes=int(found.get("backlogSize", 0)),
        producers=len(found.get("publishers") or ()),
        subscriptions={
            name: _subscription_stats(each)
            for name, each in (found.get("subscriptions") or {}).items()
            if name != "__compaction"
        },
        partitions={
            int(name.rsplit("-partition-", 1)[1]): topic_stats(each)
            for name, each in sorted(partitions.items())
        },
        connected_producers=tuple(
            ConnectedProducer(
                str(each.get("producerName", "")),
                str(each.get("address", "")),
                each.get("metadata") or {},
            )
            for each in found.get("publishers") or ()
        ),
    )


def _subscription_stats(found: Json) -> SubscriptionStats:
    return SubscriptionStats(
        backlog_messages=int(found.get("msgBacklog", 0)),
        backlog_bytes=int(found.get("backlogSize", 0)),
        oldest_backlog_published_ms=int(found.get("earliestMsgPublishTimeInBacklog", 0)),
        consumers=len(found.get("consumers") or ()),
        delivered_messages=int(found.get("msgOutCounter", 0)),
        rate_out=float(found.get("msgRateOut", 0)),
        unacknowledged_messages=int(found.get("unackedMessages", 0)),
        kind=str(found.get("type", "None")),
        durable=bool(found.get("durable", True)),
        rate_redelivered=float(found.get("msgRateRedeliver", 0)),
        last_acknowledged_ms=int(found.get("lastAckedTimestamp", 0)),
        connected=tuple(
            ConnectedConsumer(
                name=str(each.get("consumerName", "")),
                address=str(each.get("address", "")),
                delivered_messages=int(each.get("msgOutCounter", 0)),
                last_delivered_ms=int(each.get("lastConsumedTimestamp", 0)),
                last_acknowledged_ms=int(each.get("lastAckedTimestamp", 0)),
                rate_out=float(each.get("msgRateOut", 0)),
                rate_redelivered=float(each.get("msgRateRedeliver", 0)),
            )
            for each in found.get("consumers") or ()
        ),
        active=str(found.get("activeConsumerName") or ""),
    )
