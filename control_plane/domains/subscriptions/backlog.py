"""What is done about a backlog that a subscription does not want to have: `on_backlog` carried out.

One control plane does so at a time, at each look of its reconciler. The broker counts messages,
which are frames of events; what a client has prefetched is a part of the backlog until it is
acknowledged, and may still be handled after it was dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.dropped import Dropped, note_dropped
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.schemas import OnBacklog
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import FieldProblem, InvalidRequestError
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import CursorPlace, SubscriptionStats, TopicStats

SUBSCRIPTIONS_PER_LOOK = 1000
LOOK_SECONDS = 2.0
"""When a look takes longer, others wait: rollout and repair of functions come after it."""
START = ("", "")
MERGED_WITHIN = timedelta(minutes=10)
"""For so long one entry of the history tells of all that is dropped, if nothing else happens."""

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
        detail = "a backlog does not give a subscription another view"
        hint = "ask for delivery.conflate, or choose drop_oldest, disconnect or hold"
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
    """Looks at the backlogs that have limits, and does what their subscriptions ask for.

    Who resumes has time to catch up: nothing is done within `grace_seconds`, unless its backlog was
    within its limits since. What was dropped stands in the history for `kept_days`.
    """

    def __init__(
        self,
        database: Database,
        admin: PulsarAdmin,
        metrics: Metrics,
        *,
        grace_seconds: float,
        kept_days: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._admin = admin
        self._metrics = metrics
        self._grace = timedelta(seconds=grace_seconds)
        self._kept = timedelta(days=kept_days)
        self._clock = clock
        self._after = START

    async def look(self) -> None:
        """Carry out the policies of some subscriptions, all of them in turn.

        At least of one, and of no more when `LOOK_SECONDS` are over: the next look goes on there.
        What fails at the broker is logged and counted, and its turn comes again.

        Raises:
            UnavailableError: the database is down; the next look goes on.
        """
        until = self._clock() + LOOK_SECONDS
        async with self._database.transaction() as session:
            rows = await repository.limited(
                session, after=self._after, limit=SUBSCRIPTIONS_PER_LOOK
            )
        for topic, readers in groupby(rows, key=lambda row: row.view.topic):
            stats = await self._stats(topic)
            for row in readers:
                self._after = (row.view_id, row.id)
                if stats is not None:
                    await self._look_at(row, stats)
                if self._clock() >= until and row is not rows[-1]:
                    return
        if len(rows) < SUBSCRIPTIONS_PER_LOOK:
            self._after = START

    async def _stats(self, topic: str) -> TopicStats | None:
        try:
            return await self._admin.partitioned_stats(topic, oldest=True)
        except AdminNotFound:
            return None  # the reconciler makes it again
        except AdminError as error:
            self._failed(topic, error)
            return None

    def _failed(self, where: str, error: AdminError) -> None:
        self._metrics.reconcile_errors.labels("backlog").inc()
        log.warning("backlog not looked after", where=where, error=str(error))

    async def _look_at(self, row: Subscription, stats: TopicStats) -> None:
        limit, cursors = (
            msgspec.convert(row.on_backlog, OnBacklog),
            stats.cursors(row.subscription_name),
        )
        if reason(cursors, limit, _now_ms()):
            try:
                await self._act(row.id)
            except AdminError as error:
                self._failed(row.subscription_name, error)
        elif row.resumed_at is not None and cursors.keys() == stats.partitions.keys():
            # Where the broker tells of no cursor it does not say that nothing waits.
            async with self._database.transaction() as session:
                await repository.caught_up(session, row.id, row.resumed_at)

    def _catches_up(self, row: Subscription) -> bool:
        return row.resumed_at is not None and datetime.now(UTC) < row.resumed_at + self._grace

    async def _act(self, key: str) -> None:
        """Do what a subscription asks for as it is now; nobody changes it meanwhile."""
        async with self._database.transaction() as session:
            row = await repository.limited_still(session, key)
            if row is None or self._catches_up(row):
                return  # or somebody is changing it: its turn comes again
            limit = msgspec.convert(row.on_backlog, OnBacklog)
            stats = await self._admin.partitioned_stats(row.view.topic, oldest=True)
            cursors = stats.cursors(row.subscription_name)
            beyond = reason(cursors, limit, _now_ms())
            if not beyond:
                return
            if limit.policy == "drop_oldest":
                await self._drop_oldest(session, row, cursors, limit, beyond)
                return
            await repository.pause(session, row, reason="backlog", beyond=beyond)
        self._metrics.backlog_disconnected.inc()
        log.warning("disconnected because of its backlog", subscription=key, beyond=beyond)

    async def _drop_oldest(
        self,
        session: AsyncSession,
        row: Subscription,
        cursors: Mapping[int, SubscriptionStats],
        limit: OnBacklog,
        beyond: dict[str, int],
    ) -> None:
        """Drop what is too much of each partition, and tell what went, all of it or not."""
        counts = to_drop(cursors, limit)
        dropped = []
        try:
            for number, cursor in cursors.items():
                if cursor.backlog_messages:
                    partition = f"{row.view.topic}-partition-{number}"
                    count = counts.get(number, 0)
                    told = await self._drop(partition, row.subscription_name, cursor, count, limit)
                    dropped += [{"partition": number, **told}] if told else []
        except AdminError as error:
            # The rest is too much still at the next look.
            self._failed(row.subscription_name, error)
        if not dropped:
            return
        what = Dropped(beyond, dropped)
        log.warning("backlog dropped", subscription=row.id, messages=what.messages, beyond=beyond)
        self._metrics.backlog_dropped.inc(what.messages)
        await note_dropped(session, row, what, merged_within=MERGED_WITHIN, kept=self._kept)

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
            since_ms = _now_ms() - limit.seconds * 1000
            first = await self._admin.first_since(partition, since_ms)
            count = max(count, waiting_before(before, first))
        count = min(count, cursor.backlog_messages)
        if not count:
            return {}
        await self._admin.skip_messages(partition, subscription, count)
        told: dict[str, Any] = {"messages": count, "from": _told(before)}
        with suppress(AdminError):  # they are gone, wherever the cursor is now
            told["to"] = _told(await self._admin.cursor_place(partition, subscription))
        return told


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _told(place: CursorPlace) -> str:
    return "{}:{}".format(*place.acknowledged)
