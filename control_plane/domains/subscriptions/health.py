"""How a subscription is read: a state with its reason, from what the broker says of its cursor.

The broker tells counts of messages, which are frames of events, and updates rates once a minute. A
message counts as waiting until it is acknowledged: of a Failover subscription, as views have them,
the broker does not tell how many of these were delivered already.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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

    def of(self, own: OwnThresholds) -> Thresholds:
        """Those of a subscription that has some of its own."""
        lagging, stalled = own.lagging_after_seconds, own.stalled_after_seconds
        return Thresholds(
            self.lagging_after if lagging is None else lagging,
            self.stalled_after if stalled is None else stalled,
        )


Seconds = Annotated[float, Meta(ge=1, le=604_800)]


class OwnThresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """From when a subscription is said to lag or to have stalled; null as the service has it."""

    lagging_after_seconds: (
        Annotated[Seconds, Meta(description="The age of the oldest message that waits.")] | None
    ) = None
    stalled_after_seconds: (
        Annotated[Seconds, Meta(description="Without an acknowledgement while something waits.")]
        | None
    ) = None


class MemberOut(msgspec.Struct):
    """A client that reads."""

    name: str
    address: str
    state: Annotated[Health, Meta(description="By the partitions that it reads.")]
    reason: str
    partitions: Annotated[
        list[int], Meta(description="That it reads; a member that stands by has none.")
    ]
    backlog_messages: Annotated[
        int,
        Meta(
            description="Of its partitions: not acknowledged, delivered or not. The broker does "
            "not tell the two apart; with `sequences` they are told in events."
        ),
    ]
    backlog_age_seconds: float | None
    rate: Annotated[float, Meta(description="Messages a second; the broker looks once a minute.")]
    redelivery_rate: float
    delivered_messages: Annotated[int, Meta(description="Since it connected.")]
    last_delivered_at: datetime | None
    last_acknowledged_at: datetime | None


class SequencesOut(msgspec.Struct):
    """How far a partition is read, in delivery sequences: the numbers of events in a view."""

    partition: int
    member: Annotated[str | None, Meta(description="Who reads it; null for nobody.")]
    epoch: Annotated[int, Meta(description="Of `newest`; where it rises numbers start anew.")]
    acknowledged: Annotated[
        int | None,
        Meta(description="The last event before which none waits; null if it cannot be told."),
    ]
    delivered: Annotated[
        int | None, Meta(description="The last event that was sent to a client; null likewise.")
    ]
    newest: Annotated[int, Meta(description="The last event that is there.")]


class WaitsForOut(msgspec.Struct):
    """The workflow that must have acknowledged what is delivered to the subscription."""

    workflow: str
    confirmed_until: Annotated[
        datetime | None,
        Meta(
            description="What had been delivered to the workflow by then is confirmed; null before "
            "anything is."
        ),
    ]
    behind_seconds: Annotated[float | None, Meta(description="How long ago that was.")]
    reason: Annotated[str, Meta(description="Why no more is confirmed; empty where all is well.")]


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
    sequences: Annotated[
        list[SequencesOut] | None,
        Meta(description="Each partition that holds something; null where not asked for."),
    ] = None
    backlog_events: Annotated[
        int | None,
        Meta(
            description="Events that wait, by `sequences`; null where not asked for or not known."
        ),
    ] = None
    waits_for: Annotated[
        WaitsForOut | None, Meta(description="Null unless it follows a workflow.")
    ] = None


def nobody(reason: str) -> HealthOut:
    """The health of a subscription that the broker does not have."""
    return HealthOut("gone", reason, 0, 0, None, 0.0, 0.0, None, [])


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What waits in some partitions."""

    messages: int
    age: float | None
    silent: float

    @classmethod
    def at(cls, cursors: Collection[SubscriptionStats], now_ms: int) -> _Waiting:
        # A message that came while the broker counted is counted, but has no age yet.
        since = [each.oldest_backlog_published_ms for each in cursors if each.backlog_messages]
        oldest_ms = min((ms for ms in since if ms > 0), default=None)
        return cls(
            messages=sum(cursor.backlog_messages for cursor in cursors),
            age=None if oldest_ms is None else max(0.0, (now_ms - oldest_ms) / 1000),
            silent=_silent(cursors, now_ms),
        )


def health(
    partitions: Mapping[int, SubscriptionStats], now_ms: int, thresholds: Thresholds
) -> HealthOut:
    """The health of a subscription.

    Args:
        partitions: the cursor in each partition of the topic, at least one.
        now_ms: milliseconds since the epoch, by a clock like the broker's.
    """
    cursors = partitions.values()
    waiting = _Waiting.at(cursors, now_ms)
    members = _members(partitions, now_ms, thresholds)
    state, reason = (
        _judged(waiting, thresholds)
        if members
        else ("gone", f"No client is connected; {waiting.messages} messages wait.")
    )
    return HealthOut(
        state=state,
        reason=reason,
        backlog_messages=waiting.messages,
        backlog_bytes=sum(cursor.backlog_bytes for cursor in cursors),
        backlog_age_seconds=waiting.age,
        rate=sum(cursor.rate_out for cursor in cursors),
        redelivery_rate=sum(cursor.rate_redelivered for cursor in cursors),
        last_acknowledged_at=moment(max(cursor.last_acknowledged_ms for cursor in cursors)),
        members=members,
    )


def _silent(cursors: Collection[SubscriptionStats], now_ms: int) -> float:
    """The longest time that a partition with a backlog has seen no acknowledgement, in seconds.

    Before the first one it counts from when the oldest message came.
    """
    since = (
        max(cursor.last_acknowledged_ms, cursor.oldest_backlog_published_ms)
        for cursor in cursors
        if cursor.backlog_messages
    )
    return max(((now_ms - ms) / 1000 for ms in since if ms > 0), default=0.0)


def _judged(waiting: _Waiting, thresholds: Thresholds) -> tuple[Health, str]:
    """Of a connected client, or of all of them."""
    if not waiting.messages:
        return "healthy", "Everything is acknowledged."
    if waiting.silent >= thresholds.stalled_after:
        return "stalled", (
            f"A client is connected, but {waiting.messages} messages wait and nothing was"
            f" acknowledged for {waiting.silent:.0f} s."
        )
    if waiting.age is not None and waiting.age >= thresholds.lagging_after:
        return "lagging", f"{waiting.messages} messages wait, the oldest for {waiting.age:.0f} s."
    return "healthy", f"{waiting.messages} messages are on their way."


def _members(
    partitions: Mapping[int, SubscriptionStats], now_ms: int, thresholds: Thresholds
) -> list[MemberOut]:
    by_client: dict[tuple[str, str], dict[int, ConnectedConsumer]] = {}
    for number, cursor in partitions.items():
        for client in cursor.connected:
            by_client.setdefault((client.name, client.address), {})[number] = client
    found = []
    for (name, address), readers in sorted(by_client.items()):
        read = sorted(number for number in readers if partitions[number].active == name)
        waiting = _Waiting.at([partitions[number] for number in read], now_ms)
        state, reason = _judged(waiting, thresholds) if read else ("healthy", "It stands by.")
        clients = readers.values()
        found.append(
            MemberOut(
                name=name,
                address=address,
                state=state,
                reason=reason,
                partitions=read,
                backlog_messages=waiting.messages,
                backlog_age_seconds=waiting.age,
                rate=sum(each.rate_out for each in clients),
                redelivery_rate=sum(each.rate_redelivered for each in clients),
                delivered_messages=sum(each.delivered_messages for each in clients),
                last_delivered_at=moment(max(each.last_delivered_ms for each in clients)),
                last_acknowledged_at=moment(max(each.last_acknowledged_ms for each in clients)),
            )
        )
    return found


def moment(time_ms: int) -> datetime | None:
    """A time as the broker tells it; None for never."""
    return datetime.fromtimestamp(time_ms / 1000, UTC) if time_ms > 0 else None
