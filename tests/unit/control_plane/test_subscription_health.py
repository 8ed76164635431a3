"""State and reason of a subscription, from what the broker says of its cursors."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from control_plane.domains.subscriptions.health import OwnThresholds, Thresholds, health
from control_plane.pulsar_values import SubscriptionStats, topic_stats

NOW_MS = 1_790_000_000_000
THRESHOLDS = Thresholds(lagging_after=10, stalled_after=30)


def ago(seconds: float) -> int:
    return NOW_MS - int(seconds * 1000)


def cursor(
    waiting: int = 0,
    oldest_s: float | None = None,
    acknowledged_s: float | None = 1,
    readers: tuple[str, ...] = ("a",),
    **members: Any,
) -> SubscriptionStats:
    """A cursor as the broker's document has it."""
    document = {
        "msgBacklog": waiting,
        "backlogSize": 100 * waiting,
        "earliestMsgPublishTimeInBacklog": 0 if oldest_s is None else ago(oldest_s),
        "lastAckedTimestamp": 0 if acknowledged_s is None else ago(acknowledged_s),
        "activeConsumerName": readers[0] if readers else "",
        "consumers": [
            {"consumerName": name, "address": f"/10.0.0.1:{5000 + len(name)}", "msgOutCounter": 1}
            for name in readers
        ],
        **members,
    }
    found = topic_stats({"subscriptions": {"s": document}})
    return found.subscriptions["s"]


@pytest.mark.parametrize(
    ("cursors", "state", "reason"),
    [
        ([cursor(), cursor()], "healthy", "Everything is acknowledged."),
        ([cursor(5, 2), cursor()], "healthy", "5 messages are on their way."),
        ([cursor(5, 12), cursor()], "lagging", "5 messages wait, the oldest for 12 s."),
        ([cursor(5, 40, 1), cursor(3, 20, 1)], "lagging", "8 messages wait, the oldest for 40 s."),
        ([cursor(5, 40, 31), cursor(3, 1)], "stalled", "nothing was acknowledged for 31 s"),
        ([cursor(5, 40, None)], "stalled", "nothing was acknowledged for 40 s"),
        # The broker counts a message of which it does not know the age yet.
        ([cursor(5, 12), cursor(1, earliestMsgPublishTimeInBacklog=-1)], "lagging", "for 12 s."),
        ([cursor(1, earliestMsgPublishTimeInBacklog=-1)], "healthy", "1 messages are on"),
        # What was acknowledged long ago is no stall when the message has only just come.
        ([cursor(1, 2, 3600)], "healthy", "1 messages are on their way."),
        ([cursor(readers=()), cursor(readers=())], "gone", "No client is connected; 0 messages"),
        ([cursor(7, 40, 31, readers=())], "gone", "No client is connected; 7 messages wait."),
    ],
)
def test_state_and_reason(cursors: list[SubscriptionStats], state: str, reason: str) -> None:
    found = health(dict(enumerate(cursors)), NOW_MS, THRESHOLDS)
    assert found.state == state
    assert reason in found.reason


def test_counts_are_summed_and_members_have_the_partitions_they_read() -> None:
    cursors = {
        0: cursor(5, 12, 4, readers=("a", "bb"), msgRateOut=1.5),
        1: cursor(2, 40, 8, readers=("bb", "a"), msgRateRedeliver=0.5),
    }
    found = health(cursors, NOW_MS, THRESHOLDS)
    assert (found.backlog_messages, found.backlog_bytes) == (7, 700)
    assert found.backlog_age_seconds == 40.0
    assert (found.rate, found.redelivery_rate) == (1.5, 0.5)
    assert found.last_acknowledged_at == datetime.fromtimestamp(NOW_MS / 1000 - 4, UTC)
    assert [(m.name, m.partitions, m.delivered_messages) for m in found.members] == [
        ("a", [0], 2),
        ("bb", [1], 2),
    ]
    assert found.members[0].last_delivered_at is None
    assert [(m.state, m.backlog_messages, m.redelivery_rate) for m in found.members] == [
        ("lagging", 5, 0.0),
        ("lagging", 2, 0.0),
    ]


def test_a_member_is_judged_by_the_partitions_that_it_reads() -> None:
    cursors = {
        0: cursor(5, 40, 40, readers=("a", "bb", "ccc")),
        1: cursor(0, readers=("bb", "a", "ccc")),
    }
    found = health(cursors, NOW_MS, THRESHOLDS)
    assert found.state == "stalled"
    told = {member.name: (member.state, member.reason) for member in found.members}
    assert told["a"][0] == "stalled"
    assert "for 40 s" in told["a"][1]
    assert told["bb"] == ("healthy", "Everything is acknowledged.")
    assert told["ccc"] == ("healthy", "It stands by.")


def test_thresholds_of_its_own_go_before_those_of_the_service() -> None:
    cursors = {0: cursor(5, 40, 20)}
    assert health(cursors, NOW_MS, THRESHOLDS).state == "lagging"
    patient = THRESHOLDS.of(OwnThresholds(lagging_after_seconds=60))
    assert patient == Thresholds(60, 30)
    assert health(cursors, NOW_MS, patient).state == "healthy"
    strict = THRESHOLDS.of(OwnThresholds(stalled_after_seconds=15))
    assert health(cursors, NOW_MS, strict).state == "stalled"
