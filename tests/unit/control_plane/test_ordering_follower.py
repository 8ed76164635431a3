"""What the follower tells about itself: never less behind than it is, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from control_plane.domains.ordering.follower import FollowerState, PartitionState

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_the_lag_is_the_age_of_the_oldest_message_that_is_not_stored() -> None:
    state = FollowerState()
    assert state.lag_seconds(NOW) == 0.0
    state.partitions = {
        0: PartitionState(),
        1: PartitionState(behind_since=NOW - timedelta(seconds=3)),
        2: PartitionState(behind_since=NOW - timedelta(seconds=7)),
        3: PartitionState(behind_since=NOW + timedelta(seconds=1)),
    }
    assert state.lag_seconds(NOW) == 7.0
    del state.partitions[1], state.partitions[2]
    assert state.lag_seconds(NOW) == 0.0  # the broker's clock is ahead of ours


def test_the_detail_names_every_reason_once_before_the_role() -> None:
    state = FollowerState(role="following")
    state.partitions = {n: PartitionState() for n in range(3)}
    assert state.detail == "stores the findings of 3 partitions"
    for partition in state.partitions.values():
        partition.failure = "The broker does not answer."
    assert state.detail == "The broker does not answer."
    state.failure = "PostgreSQL does not answer."
    assert state.detail == "PostgreSQL does not answer. The broker does not answer."
    assert "another control plane" in FollowerState(role="standby").detail
