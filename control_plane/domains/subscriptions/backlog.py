"""What is done about a backlog that a subscription does not want to have: `on_backlog` carried out.

One control plane does so at a time, at each look of its reconciler. The broker counts messages,
which are frames of events; what a client has prefetched is a part of the backlog until it is
acknowledged, and may still be handled after it was dropped.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
import structlog

from control_plane.database import Database
from control_plane.domains.events.schemas import EventType
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.schemas import OnBacklog
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import FieldProblem, InvalidRequestError
from control_plane.pulsar_admin import AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import CursorPlace, SubscriptionStats

SUBSCRIPTIONS_PER_LOOK = 1000

log = structlog.get_logger(__name__)

Position = tuple[int, int]
"""Ledger and entry."""


def check(on_backlog: OnBacklog) -> None:
    """Refuse what cannot be carried out.

    Raises:
        InvalidRequestError: the policy is not there yet, or does not fit the limits.
    """
    limits = [on_backlog.messages, on_backlog.bytes, on_backlog.seconds]
    if on_backlog.policy == "conflate":
        detail, hint = "there is no conflation yet", "choose drop_oldest, disconnect or hold"
        problem = FieldProblem("/on_backlog/policy", detail, hint=hint)
    elif on_backlog.policy == "hold" and limits != [None] * 3:
        hint = "leave messages, bytes and seconds out, or choose another policy"
        problem = FieldProblem("/on_backlog", "hold has no limits of its own", hint=hint)
    elif on_backlog.policy != "hold" and limits == [None] * 3:
        hint = "give at least one of messages, bytes and seconds"
        problem = FieldProblem("/on_backlog", f"{on_backlog.policy} needs a limit", hint=hint)
    else:
        return
    raise InvalidRequestError(f"on_backlog: {problem.detail}.", [problem])


def reason(
    cursors: Mapping[int, SubscriptionStats], limit: OnBacklog, now_ms: int
) -> dict[str, int]:
    """How large a backlog is by those of its limits that it is beyond; empty within all of them.

    Args:
        cursors: the cursor in each partition of the topic.
        now_ms: milliseconds since the epoch, by a clock like the broker's.
    """
    since = [each.oldest_backlog_published_ms for each in cursors.values() if each.backlog_messages]
    oldest_ms = min((ms for ms in since if ms > 0), default=now_ms)
    sizes = {
        "messages": sum(each.backlog_messages for each in cursors.values()),
        "bytes": sum(each.backlog_bytes for each in cursors.values()),
        "seconds": (now_ms - oldest_ms) // 1000,
    }
    limits = {name: getattr(limit, name) for name in sizes}
    return {
        name: size
        for name, size in sizes.items()
        if limits[name] is not None and size > limits[name]
    }


def to_drop(cursors: Mapping[int, SubscriptionStats], limit: OnBacklog) -> dict[int, int]:
    """How many messages of each partition are too many by number or, as they are large, by bytes.

    Every partition gives the same share of what it has: what is left is as old in all of them,
    where they are filled alike.
    """
    messages = sum(each.backlog_messages for each in cursors.values())
    size = sum(each.backlog_bytes for each in cursors.values())
    # Of `whole` parts `kept` may stay.
    kept, whole = 1, 1
    for most, there in ((limit.messages, messages), (limit.bytes, size)):
        if most is not None and there > most and most * whole < kept * there:
            kept, whole = most, there
    counts = {
        number: each.backlog_messages - each.backlog_messages * kept // whole
        for number, each in cursors.items()
    }
    return {number: count for number, count in counts.items() if count}


def entries_between(ledgers: Sequence[tuple[int, int]], after: Position, before: Position) -> int:
    """The number of entries between two positions, neither of them included.

    >>> entries_between([(7, 10), (9, 5)], (7, 3), (9, 2))
    8
    """
    count = 0
    for ledger, entries in ledgers:
        first = after[1] + 1 if ledger == after[0] else 0
        end = before[1] if ledger == before[0] else entries
        if after[0] <= ledger <= before[0]:
            count += max(0, end - first)
    return count


def waiting_before(place: CursorPlace, before: Position) -> int:
    """The number of entries before a position that wait in a partition.

    What is acknowledged singly does not, and a skip of the broker does not count it either.
    """
    ledgers = place.stored.ledgers
    count = entries_between(ledgers, place.acknowledged, before)
    for after, (ledger, entry) in place.singly:
        end = min((ledger, entry + 1), before)
        count -= entries_between(ledgers, max(after, place.acknowledged), end)
    return count


class BacklogKeeper:
    """Looks at the backlogs that have limits, and does what their subscriptions ask for."""

    def __init__(self, database: Database, admin: PulsarAdmin, metrics: Metrics) -> None:
        self._database = database
        self._admin = admin
        self._metrics = metrics
        self._after = ""

    async def look(self) -> None:
        """Carry out the policies of some subscriptions, all of them in turn.

        Raises:
            UnavailableError, AdminError: something is down; the next look repeats the rest.
        """
        async with self._database.transaction() as session:
            rows = await repository.limited(
                session, after=self._after, limit=SUBSCRIPTIONS_PER_LOOK
            )
        self._after = rows[-1].id if len(rows) == SUBSCRIPTIONS_PER_LOOK else ""
        by_topic = sorted(rows, key=lambda row: row.view.topic)
        for topic, readers in groupby(by_topic, key=lambda row: row.view.topic):
            try:
                stats = await self._admin.partitioned_stats(topic, oldest=True)
            except AdminNotFound:
                continue  # the reconciler makes it again
            for row in readers:
                cursors = {
                    number: partition.subscriptions[row.subscription_name]
                    for number, partition in stats.partitions.items()
                    if row.subscription_name in partition.subscriptions
                }
                await self._keep(row, cursors)

    async def _keep(self, row: Subscription, cursors: Mapping[int, SubscriptionStats]) -> None:
        limit = msgspec.convert(row.on_backlog, OnBacklog)
        now_ms = time.time_ns() // 1_000_000
        beyond = reason(cursors, limit, now_ms)
        if not beyond:
            return
        if limit.policy == "disconnect":
            await self._disconnect(row.id, beyond)
            return
        dropped = []
        for number, cursor in cursors.items():
            if cursor.backlog_messages:
                partition = f"{row.view.topic}-partition-{number}"
                count = to_drop(cursors, limit).get(number, 0)
                told = await self._drop(partition, row.subscription_name, cursor, count, limit)
                dropped += [{"partition": number, **told}] if told else []
        if not dropped:
            return
        messages = sum(each["messages"] for each in dropped)
        self._metrics.backlog_dropped.inc(messages)
        log.warning("backlog dropped", subscription=row.id, messages=messages, beyond=beyond)
        async with self._database.transaction() as session:
            found = await repository.find(session, row.id)
            await repository.note(
                session,
                EventType.SUBSCRIPTION_DROPPED,
                [found],
                {"partitions": dropped},
                messages=messages,
                beyond=beyond,
            )

    async def _disconnect(self, key: str, beyond: dict[str, int]) -> None:
        async with self._database.transaction() as session:
            row = await repository.find(session, key, for_update=True)
            if not await repository.pause(session, row, reason="backlog", beyond=beyond):
                return
        self._metrics.backlog_disconnected.inc()
        log.warning("disconnected because of its backlog", subscription=key, beyond=beyond)

    async def _drop(
        self,
        partition: str,
        subscription: str,
        cursor: SubscriptionStats,
        count: int,
        limit: OnBacklog,
    ) -> dict[str, Any]:
        """Move a cursor over the oldest messages of a partition; gives what is told of it."""
        before = await self._admin.cursor_place(partition, subscription)
        if limit.seconds is not None:
            since_ms = time.time_ns() // 1_000_000 - limit.seconds * 1000
            first = await self._admin.first_since(partition, since_ms)
            count = max(count, waiting_before(before, first))
        count = min(count, cursor.backlog_messages)
        if not count:
            return {}
        await self._admin.skip_messages(partition, subscription, count)
        after = await self._admin.cursor_place(partition, subscription)
        return {"messages": count, "from": _told(before), "to": _told(after)}


def _told(place: CursorPlace) -> str:
    return "{}:{}".format(*place.acknowledged)
