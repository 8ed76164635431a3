"""A topic that stays fenced has its bundles unloaded, and not before, and not again at once."""

from __future__ import annotations

import asyncio
from typing import cast

from control_plane.fenced_topics import (
    AGAIN_SECONDS,
    FORGOTTEN_SECONDS,
    PATIENCE_SECONDS,
    FencedTopics,
)
from control_plane.pulsar_admin import AdminError, AdminUnavailable, PulsarAdmin

TOPIC = "persistent://marketdata/delivery/view-1"
FENCED = AdminError("Cannot delete topic: Pulsar answers 500 (Topic is already fenced)", status=500)


class Broker:
    def __init__(self) -> None:
        self.unloaded: list[str] = []
        self.away = False

    async def bundles_of(self, topic: str) -> list[str]:
        assert topic == TOPIC
        return ["0x00_0x40", "0x80_0xc0"]

    async def unload_bundle(self, _topic: str, bundle: str) -> None:
        if self.away:
            raise AdminUnavailable("away")
        self.unloaded.append(bundle)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class World:
    """Topics, and a failure of one of them at a time."""

    def __init__(self) -> None:
        self.broker, self.clock, self.counted = Broker(), Clock(), 0
        self.topics = FencedTopics(
            cast(PulsarAdmin, self.broker), on_unloaded=self._count, clock=self.clock
        )

    def _count(self) -> None:
        self.counted += 1

    async def fails(self, after_s: float, error: AdminError = FENCED) -> int:
        """How many bundles were unloaded by then."""
        self.clock.now += after_s
        self.topics.failed(TOPIC, error)
        if self.topics._task is not None:
            await asyncio.wait([self.topics._task])
        return len(self.broker.unloaded)


async def test_it_is_unloaded_when_it_stays_fenced() -> None:
    world = World()
    assert await world.fails(0) == 0
    assert await world.fails(PATIENCE_SECONDS - 1) == 0
    assert await world.fails(1) == 2
    assert world.counted == 1
    assert await world.fails(AGAIN_SECONDS - 1) == 2
    assert await world.fails(1) == 4
    await world.topics.close()


async def test_one_that_works_again_has_patience_again() -> None:
    world = World()
    await world.fails(0)
    world.topics.works(TOPIC)
    assert await world.fails(PATIENCE_SECONDS) == 0


async def test_failures_far_apart_are_each_a_first_one() -> None:
    world = World()
    await world.fails(0)
    assert await world.fails(FORGOTTEN_SECONDS + 1) == 0


async def test_topics_of_one_bundle_do_not_unload_it_one_after_the_other() -> None:
    world = World()
    others = [f"{TOPIC}-{number}" for number in range(3)]
    for topic in others:
        world.topics.failed(topic, FENCED)
    assert await world.fails(0) == 0
    assert await world.fails(PATIENCE_SECONDS) == 2
    for topic in others:
        world.topics.failed(topic, FENCED)
    await asyncio.sleep(0)
    assert len(world.broker.unloaded) == 2


async def test_other_failures_do_not_count() -> None:
    world = World()
    other = AdminError("Cannot delete topic: Pulsar answers 412 (Topic has subscriptions)")
    assert await world.fails(0, other) == 0
    assert await world.fails(PATIENCE_SECONDS, other) == 0


async def test_what_cannot_be_unloaded_is_tried_again() -> None:
    world = World()
    world.broker.away = True
    await world.fails(0)
    assert await world.fails(PATIENCE_SECONDS) == 0
    assert world.counted == 0
    world.broker.away = False
    assert await world.fails(AGAIN_SECONDS) == 2
