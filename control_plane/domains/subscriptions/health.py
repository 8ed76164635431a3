"""How a subscription is read: a state with its reason, from what the broker says of its cursor.

The broker tells counts of messages, which are frames of events, and updates rates once a minute. A
message counts as waiting until it is acknowledged: of a Failover subscription, as views have them,
the broker does not tell how many of these were delivered already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from control_plane.pulsar_values import ConnectedConsumer, SubscriptionStats

Health = Literal["healthy", "lagging", "stalled", "gone"]
STATES: tuple[Health, ...] = get_args(Health)
"""From the best to the worst."""

NO_CURSOR = "The broker has no such subscription: it is not made yet, or the topic is lost."
CLOSED = "The subscription is closed."
PAUSED = "The subscription is paused."
PAUSED_BY_BACKLOG = "The subscription is paused because of its backlog: POST …/resume."


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From when a subscription is said to lag or to have stalled, in seconds."""

    lagging_after: float
    stalled_after: float


class MemberOut(msgspec.Struct):
    """A client that reads."""

    name: str
    address: str
    partitions: Annotated[
        list[int], Meta(description="That it reads; a member that stands by has none.")
    ]
    delivered_messages: int
    last_delivered_at: datetime | None
    last_acknowledged_at: datetime | None


class HealthOut(msgspec.Struct):
    """How a subscription is read; messages are frames of events."""

    state: Annotated[
        Health,
        Meta(
            description="`lagging`: what waits is old. `stalled`: and nothing is acknowledged. "
            "`gone`: nobody is connected."
        ),
    ]
    reason: str
    backlog_messages: int
    backlog_bytes: int
    backlog_age_seconds: Annotated[
        float | None, Meta(description="Of the oldest message that waits; null when none does.")
    ]
    rate: Annotated[float, Meta(description="Messages a second; the broker looks once a minute.")]
    redelivery_rate: float
    last_acknowledged_at: datetime | None
    members: list[MemberOut]


def nobody(reason: str) -> HealthOut:
    """The health of a subscription that the broker does not have."""
    return HealthOut("gone", reason, 0, 0, None, 0.0, 0.0, None, [])


def health(
    partitions: Mapping[int, SubscriptionStats], now_ms: int, thresholds: Thresholds
) -> HealthOut:
    """The health of a subscription.

    Args:
        partitions: the cursor in each partition of the topic, at least one.
        now_ms: milliseconds since the epoch, by a clock like the broker's.
    """
    cursors = partitions.values()
    waiting = sum(cursor.backlog_messages for cursor in cursors)
    # A message that came while the broker counted is counted, but has no age yet.
    since = [each.oldest_backlog_published_ms for each in cursors if each.backlog_messages]
    oldest_ms = min((ms for ms in since if ms > 0), default=None)
    age = None if oldest_ms is None else max(0.0, (now_ms - oldest_ms) / 1000)
    acknowledged_ms = max(cursor.last_acknowledged_ms for cursor in cursors)
    members = _members(partitions)
    state, reason = _judged(
        connected=bool(members),
        waiting=waiting,
        age=age,
        silent=_silent(partitions, now_ms),
        thresholds=thresholds,
    )
    return HealthOut(
        state=state,
        reason=reason,
        backlog_messages=waiting,
        backlog_bytes=sum(cursor.backlog_bytes for cursor in cursors),
        backlog_age_seconds=age,
        rate=sum(cursor.rate_out for cursor in cursors),
        redelivery_rate=sum(cursor.rate_redelivered for cursor in cursors),
        last_acknowledged_at=moment(acknowledged_ms),
        members=members,
    )


def _silent(partitions: Mapping[int, SubscriptionStats], now_ms: int) -> float:
    """The longest time that a partition with a backlog has seen no acknowledgement, in seconds.

    Before the first one it counts from when the oldest message came.
    """
    since = (
        max(cursor.last_acknowledged_ms, cursor.oldest_backlog_published_ms)
        for cursor in partitions.values()
        if cursor.backlog_messages
    )
    return max(((now_ms - ms) / 1000 for ms in since if ms > 0), default=0.0)


def _judged(
    *, connected: bool, waiting: int, age: float | None, silent: float, thresholds: Thresholds
) -> tuple[Health, str]:
    if not connected:
        return "gone", f"No client is connected; {waiting} messages wait."
    if not waiting:
        return "healthy", "Everything is acknowledged."
    if silent >= thresholds.stalled_after:
        return "stalled", (
            f"A client is connected, but {waiting} messages wait and nothing was acknowledged for"
            f" {silent:.0f} s."
        )
    if age is not None and age >= thresholds.lagging_after:
        return "lagging", f"{waiting} messages wait, the oldest for {age:.0f} s."
    return "healthy", f"{waiting} messages are on their way."


def _members(partitions: Mapping[int, SubscriptionStats]) -> list[MemberOut]:
    by_client: dict[tuple[str, str], dict[int, ConnectedConsumer]] = {}
    for number, cursor in partitions.items():
        for client in cursor.connected:
            by_client.setdefault((client.name, client.address), {})[number] = client
    return [
        MemberOut(
            name=name,
            address=address,
            partitions=sorted(number for number in readers if partitions[number].active == name),
            delivered_messages=sum(each.delivered_messages for each in readers.values()),
            last_delivered_at=moment(max(each.last_delivered_ms for each in readers.values())),
            last_acknowledged_at=moment(
                max(each.last_acknowledged_ms for each in readers.values())
            ),
        )
        for (name, address), readers in sorted(by_client.items())
    ]


def moment(time_ms: int) -> datetime | None:
    """A time as the broker tells it; None for never."""
    return datetime.fromtimestamp(time_ms / 1000, UTC) if time_ms > 0 else None
