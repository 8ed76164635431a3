"""Who may read which delivery topic: the grants that the broker holds for consumers.

A consumer is known to the broker by its id. It may consume the topic of a view while it has a
subscription to it, under Pulsar subscriptions whose names begin with its id (the namespace's
`subscription_auth_mode`), of which only the control plane makes new ones. Everything here may be
repeated, and does nothing where the broker does not ask who its clients are.

A grant that is taken away ends the connection of whoever uses it as soon as the broker hears of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from control_plane.pulsar_admin import AdminNotFound, PulsarAdmin
from marketdata.topics import TENANT

_NAMESPACE: Final = f"{TENANT}/delivery"

READ_ONLY: Final = ("consume",)
"""What a consumer may do on the topic of a view."""

Grant = tuple[str, str]
"""Topic of a view and id of a consumer."""


class BrokerGrants:
    """Reads and changes the grants on delivery topics."""

    def __init__(self, admin: PulsarAdmin) -> None:
        self._admin = admin
        self._enabled: bool | None = None

    async def enabled(self) -> bool:
        """Whether the broker asks; looked up once, because only its restart can change it."""
        if self._enabled is None:
            self._enabled = await self._admin.authorization_enabled()
        return self._enabled

    async def give(self, grants: Iterable[Grant]) -> None:
        """Let consumers read topics, which have to exist."""
        wanted = sorted(set(grants))
        if wanted and await self.enabled():
            await self._admin.grant_on_topics(wanted, list(READ_ONLY))

    async def take(self, grants: Iterable[Grant]) -> None:
        """Let consumers no longer read topics; those who do are cut off."""
        unwanted = sorted(set(grants))
        if unwanted and await self.enabled():
            await self._admin.revoke_on_topics(unwanted)

    async def held(self) -> dict[Grant, tuple[str, ...]]:
        """What roles may do on single delivery topics; {} where the broker does not ask."""
        if not await self.enabled():
            return {}
        try:
            return topic_grants(await self._admin.namespace_policies(_NAMESPACE))
        except AdminNotFound:  # the topology is not applied yet
            return {}


def topic_grants(document: Mapping[str, Any]) -> dict[Grant, tuple[str, ...]]:
    """The grants on single topics in Pulsar's document of a namespace.

    >>> topic_grants({"auth_policies": {"destination_auth": {"t": {"c1": ["consume"]}}}})
    {('t', 'c1'): ('consume',)}
    """
    by_topic = (document.get("auth_policies") or {}).get("destination_auth") or {}
    return {
        (topic, role): tuple(sorted(actions))
        for topic, roles in by_topic.items()
        for role, actions in roles.items()
    }
