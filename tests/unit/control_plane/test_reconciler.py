"""The reconciler takes every step of a look, whatever goes wrong in another."""

from __future__ import annotations

from typing import Any

import pytest
from world import World, reconciler_of

from control_plane.database import Database
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.system.metrics import Metrics
from control_plane.errors import BrokerUnavailableError
from control_plane.pulsar_admin import AdminNotFound
from control_plane.settings import Settings


class Part:
    """A part of the reconciler that counts its looks, and fails as it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.looks = 0
        self.error = error

    async def look(self) -> None:
        self.looks += 1
        if self.error is not None:
            raise self.error


async def test_what_fails_in_one_step_keeps_no_other_from_being_taken(
    database: Database, settings: Settings
) -> None:
    metrics, last = Metrics(FollowerState()), Part()
    broken = Part(RuntimeError("broken"))
    one = reconciler_of(
        database,
        settings,
        metrics=metrics,
        backlogs=broken,
        groups=Part(),
        health=Part(),
        expiry=last,
    )
    for _ in range(2):
        assert await one.look_once()
    assert (broken.looks, last.looks) == (2, 2)


class NoTopics:
    """An admin API that knows no topic of a view."""

    async def subscriptions(self, topic: str) -> list[str]:
        raise AdminNotFound(topic, status=404)


class Grants:
    """Grants of a broker that asks; what is there beside what is wanted was taken."""

    def __init__(self) -> None:
        self.corrected: list[str] = []

    async def enabled(self) -> bool:
        return True

    async def correct(self, use: Any, *_: Any, **__: Any) -> tuple[set[Any], set[Any]]:
        self.corrected.append(use.namespace)
        return set(), set()

    async def correct_blocks(self, *_: Any) -> tuple[set[str], set[str]]:
        return set(), set()


async def test_a_topic_that_cannot_be_made_keeps_nobodys_grant_from_being_taken(
    world: World, settings: Settings
) -> None:
    await world.settle()
    made = await world.subscribe("one")
    await world.settle()
    assert await world.state(made) == "active"
    world.topics.down = True
    grants = Grants()
    one = reconciler_of(
        world.database,
        settings,
        metrics=Metrics(FollowerState()),
        admin=NoTopics(),
        topics=world.topics,
        grants=grants,
        backlogs=Part(),
        groups=Part(),
        health=Part(),
        expiry=Part(),
    )
    with pytest.raises(BrokerUnavailableError):
        await one.look_once()
    assert grants.corrected == ["marketdata/delivery", "marketdata/ingest"]
