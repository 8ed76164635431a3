"""Finding the messages with which a subscription begins that names a time or delivery sequences.

A partition is halved again and again, so a large topic is not read (`explain.search`). What is
found is a message, or the place behind the newest one: it stays what it is whatever is written
meanwhile, so making a Pulsar subscription there may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing

import pulsar

from control_plane.broker import Broker
from control_plane.domains.explain.search import Budget, OutOfBounds, Place, Stored, find_place
from control_plane.domains.subscriptions.beginnings import (
    OLDEST,
    At,
    Begin,
    Found,
    SequenceStart,
    StartPlace,
    time_of,
)
from control_plane.errors import BrokerUnavailableError, FieldProblem, InvalidRequestError
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.topic_reads import TopicReads
from marketdata.history import HistoryTimeout
from marketdata.plans import View
from marketdata.topics import partition_topic

Count = tuple[int, int]
"""A delivery epoch, and a delivery sequence of it."""
_EARLIEST_HINT = "begin with 'earliest'"


class StartSearch:
    """Finds where subscriptions begin; nothing is stored."""

    def __init__(self, broker: Broker, admin: PulsarAdmin, *, timeout_seconds: float) -> None:
        self._admin = admin
        self._reads = TopicReads(broker, "The view's topic", timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """End the threads that read topics."""
        self._reads.close()

    async def find(self, view: View, asked: StartPlace) -> Found:
        """Where what is asked for is on a view's topic.

        Raises:
            InvalidRequestError: sequences that the topic has not come to, or that are not its own.
            BrokerUnavailableError: the topic cannot be read, or not within the time of a request.
        """
        stored = await self._stored(view.topic)

        def read(client: pulsar.Client, seconds: float) -> tuple[Begin, ...]:
            return search(client, stored, asked, Budget(timeout_s=seconds))

        try:
            return Found(asked, view.id, await self._reads.read(read))
        except (OutOfBounds, HistoryTimeout) as error:
            raise BrokerUnavailableError(
                "The start was not found on the view's topic within the time of a request."
            ) from error

    async def _stored(self, topic: str) -> list[Stored]:
        """What the partitions of a topic hold now; nothing where nobody had the view before."""
        try:
            count = await self._admin.partitions(topic)
            topics = [partition_topic(topic, number) for number in range(count)]
            held = await asyncio.gather(*map(self._admin.stored_entries, topics))
        except AdminNotFound:
            return []
        except AdminError as error:
            raise BrokerUnavailableError("The broker's admin API failed.") from error
        return list(map(Stored, topics, held))


def search(
    client: pulsar.Client, stored: Sequence[Stored], asked: StartPlace, budget: Budget
) -> tuple[Begin, ...]:
    """Where to begin in each partition. Blocks.

    Raises:
        InvalidRequestError: sequences that are ahead of a partition, or of one that holds nothing.
        OutOfBounds, HistoryTimeout: the budget is spent.
        pulsar.PulsarException: the broker is away.
    """
    time = time_of(asked)
    if time is not None:
        # Publish times are of whole milliseconds: rather too early than too late.
        since_ms = int(time.timestamp() * 1000)
        return tuple(
            _begin(number, partition, find_place(client, partition, _written(since_ms), budget))
            for number, partition in enumerate(stored)
        )
    wanted = {each.partition: (place, each) for place, each in enumerate(asked.sequences or ())}
    for number, (place, _) in wanted.items():
        if number >= len(stored) or not len(stored[number]):
            detail = f"partition {number} of the view's topic holds nothing"
            raise _refused(place, "partition", detail, _EARLIEST_HINT)
    begins = []
    for number, partition in enumerate(stored):
        if number in wanted:
            begins.append(_at_sequence(client, number, partition, *wanted[number], budget))
        else:
            begins.append(Begin(number, *OLDEST, "oldest"))
    return tuple(begins)


def _at_sequence(
    client: pulsar.Client,
    number: int,
    partition: Stored,
    place: int,
    wanted: SequenceStart,
    budget: Budget,
) -> Begin:
    """Where a partition holds a sequence, or what follows the newest one."""
    following = _following(client, partition, budget)
    if following is None:
        detail = f"partition {number} of the view's topic holds nothing any more"
        raise _refused(place, "partition", detail, _EARLIEST_HINT)
    epoch = following[0] if wanted.delivery_epoch is None else wanted.delivery_epoch
    count = (epoch, wanted.delivery_sequence)
    if count > following:
        detail = f"partition {number} has come to {following[1]} of epoch {following[0]} only"
        member = "delivery_epoch" if epoch > following[0] else "delivery_sequence"
        raise _refused(place, member, detail, "it is another view's, perhaps")
    found = find_place(client, partition, lambda each: _behind(each) > count, budget)
    whole = found.message is not None and _first(found.message) <= count
    return _begin(number, partition, found, whole=whole)


def _begin(number: int, partition: Stored, found: Place, *, whole: bool = False) -> Begin:
    """What a search has found; `whole`: nothing that was asked for is before it."""
    if found.message is not None:
        position = partition.position(found.number)
        at: At = "asked" if found.preceded or whole else "oldest"
        return Begin(number, position.ledger_id, position.entry_id, at)
    if not len(partition):
        return Begin(number, *OLDEST, "next")
    newest = partition.position(len(partition) - 1)
    return Begin(number, newest.ledger_id, newest.entry_id + 1, "next")


def _written(since_ms: int) -> Callable[[pulsar.Message], bool]:
    return lambda message: message.publish_timestamp() >= since_ms


def _first(message: pulsar.Message) -> Count:
    properties = message.properties()
    return int(properties["delivery_epoch"]), int(properties["delivery_sequence"])


def _behind(message: pulsar.Message) -> Count:
    """What follows the last event of a message."""
    epoch, first = _first(message)
    return epoch, first + int(message.properties()["count"])


def _following(client: pulsar.Client, partition: Stored, budget: Budget) -> Count | None:
    """What follows the newest message of a partition; None when it is gone."""
    last = len(partition) - 1
    with closing(partition.read(client, last, last + 1, budget)) as messages:
        return max((_behind(message) for _, message in messages), default=None)


def _refused(place: int, member: str, detail: str, hint: str) -> InvalidRequestError:
    problem = FieldProblem(f"/start/sequences/{place}/{member}", detail, hint=hint)
    return InvalidRequestError(f"start: {detail}.", [problem])
