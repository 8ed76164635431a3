"""Topics that a broker has closed for ever, and how they are opened again.

A broker fences a topic while it deletes or closes it. Where that does not end (seen with Pulsar
4.0.8, when a topic was deleted by force while clients connected to it) all that is asked of the
topic fails from then on. The bundle of the namespace that holds it is then unloaded: the broker
lets go of all topics of the bundle, whatever state they are in, and clients connect anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from control_plane.pulsar_admin import AdminError, PulsarAdmin

PATIENCE_SECONDS = 5.0
"""How long a topic may be fenced: while it is deleted or moved it is."""
FORGOTTEN_SECONDS = 60.0
"""After so long without a failure a topic's next one is a first one."""
AGAIN_SECONDS = 60.0
"""Between two attempts, of whatever topic: unloading disturbs who reads the others of a bundle."""
_WORDS = ("topic is already fenced", "being closed or deleted", "temporarily unavailable")

log = structlog.get_logger(__name__)


class FencedTopics:
    """One per control plane; it is told of failures, and acts beside its caller."""

    def __init__(
        self,
        admin: PulsarAdmin,
        *,
        on_unloaded: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admin = admin
        self._on_unloaded = on_unloaded
        self._clock = clock
        self._failing: dict[str, tuple[float, float]] = {}
        """Since when topics fail, and when they did last."""
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None

    def works(self, topic: str) -> None:
        """Something that was asked of a partitioned topic was done."""
        self._failing.pop(topic, None)

    def failed(self, topic: str, error: AdminError) -> None:
        """Something that was asked of a partitioned topic failed."""
        if not any(word in str(error).lower() for word in _WORDS):
            return
        now = self._clock()
        since, last = self._failing.get(topic, (now, now))
        if now - last > FORGOTTEN_SECONDS:
            since = now
        self._failing[topic] = since, now
        if now - since < PATIENCE_SECONDS or now < self._not_before:
            return
        self._not_before = now + AGAIN_SECONDS
        self._task = asyncio.create_task(self._unload(topic))

    async def close(self) -> None:
        """Wait for nothing any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _unload(self, topic: str) -> None:
        """Have the bundles unloaded that hold a topic's partitions."""
        try:
            bundles = await self._admin.bundles_of(topic)
            log.warning("topic is fenced: unloading its bundles", topic=topic, bundles=bundles)
            for bundle in bundles:
                await self._admin.unload_bundle(topic, bundle)
        except AdminError as error:
            log.warning("bundle not unloaded yet", topic=topic, error=str(error))
            return
        if self._on_unloaded is not None:
            self._on_unloaded()
