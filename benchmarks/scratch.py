"""A namespace for topics and functions that exist only while a comparison is measured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from control_plane.pulsar_admin import AdminConflict, AdminError, PulsarAdmin
from marketdata.connection import Access

NAMESPACE: Final = "marketdata/benchmark"


@asynccontextmanager
async def scratch_topics(
    admin_url: str, *names: str, partitions: int
) -> AsyncIterator[tuple[PulsarAdmin, list[str]]]:
    """Partitioned topics in `NAMESPACE`, deleted afterwards together with it."""
    topics = [f"persistent://{NAMESPACE}/{name}" for name in names]
    async with PulsarAdmin(admin_url, access=Access.from_environment()) as admin:
        with suppress(AdminConflict):
            await admin.create_namespace(NAMESPACE)
        try:
            for topic in topics:
                with suppress(AdminConflict):
                    await admin.create_topic(topic, partitions=partitions)
            yield admin, topics
        finally:
            # What remains goes with the stack's data.
            for topic in topics:
                with suppress(AdminError):
                    await admin.delete_topic(topic, partitioned=True, force=True)
            with suppress(AdminError):
                await admin.delete_namespace(NAMESPACE)
