"""Who may read which delivery topic, and who may publish: the grants that the broker holds.

A consumer is known to the broker by its id. It may consume the topic of a view while it has a
subscription to it, under Pulsar subscriptions whose names begin with its id (the namespace's
`subscription_auth_mode`), of which only the control plane makes new ones. A publisher may produce
to `ingest/events` while it has a token that was issued here. Everything here may be repeated, and
does nothing where the broker does not ask who its clients are.

A consumer that pauses keeps its grants. Its Pulsar subscription is reserved for a role that nobody
has, so that no other subscription of the consumer to the same topic is touched.

A grant that is taken away, and a block, end the connection of whoever uses it as soon as the broker
hears of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from control_plane.pulsar_admin import AdminNotFound, PulsarAdmin
from marketdata.topics import INGEST_EVENTS, TENANT

Grant = tuple[str, str]
"""A topic, and the role that may do something there: a consumer's id, a publisher's name."""


@dataclass(frozen=True, slots=True)
class Use:
    """One use of topics: the namespace of its topics, and what is done there."""

    namespace: str
    actions: tuple[str, ...]


READING: Final = Use(f"{TENANT}/delivery", ("consume",))
NOBODY: Final = "nobody!"
"""A role that no token has."""
PUBLISHING: Final = Use(f"{TENANT}/ingest", ("produce",))


def publisher(name: str) -> Grant:
    """What a publisher needs."""
    return INGEST_EVENTS, name


class BrokerGrants:
    """Reads and changes the grants on single topics; those on namespaces are the topology's."""

    def __init__(self, admin: PulsarAdmin) -> None:
        self._admin = admin
        self._enabled: bool | None = None

    async def enabled(self) -> bool:
        """Whether the broker asks; looked up once, because only its restart can change it."""
        if self._enabled is None:
            self._enabled = await self._admin.authorization_enabled()
        return self._enabled

    async def give(self, use: Use, grants: Iterable[Grant]) -> None:
        """Let roles use topics; those that do not exist have no grants."""
        await self._change(grants, lambda some: self._admin.grant_on_topics(some, [*use.actions]))

    async def take(self, grants: Iterable[Grant]) -> None:
        """Let roles no longer use topics; those who do are cut off."""
        await self._change(grants, self._admin.revoke_on_topics)

    async def block(self, subscription: str, *, blocked: bool) -> None:
        """Let nobody read under a Pulsar subscription, or whoever may read its topic again."""
        if not await self.enabled():
            return
        roles = [NOBODY] if blocked else []
        await self._admin.reserve_subscription(READING.namespace, subscription, roles)

    async def correct_blocks(self, wanted: Collection[str]) -> tuple[set[str], set[str]]:
        """Make the blocks those that are wanted; gives which were made and which taken away."""
        if not await self.enabled():
            return set(), set()
        held = blocks(await self._admin.namespace_policies(READING.namespace))
        missing, foreign = set(wanted) - held, held - set(wanted)
        for name in sorted(missing | foreign):
            await self.block(name, blocked=name in missing)
        return missing, foreign

    async def _change(
        self, grants: Iterable[Grant], change: Callable[[list[Grant]], Awaitable[None]]
    ) -> None:
        ordered = sorted(set(grants))
        if not ordered or not await self.enabled():
            return
        try:
            await change(ordered)
        except AdminNotFound:
            # One topic that is missing fails all of them.
            for grant in ordered:
                with suppress(AdminNotFound):
                    await change([grant])

    async def correct(
        self, use: Use, wanted: Collection[Grant], *, tolerated: Collection[Grant] = ()
    ) -> tuple[set[Grant], set[Grant]]:
        """Make the grants of a namespace those that are wanted; gives what was given and taken.

        `tolerated`: grants that may be there or not.
        """
        if not await self.enabled():
            return set(), set()
        held = topic_grants(await self._admin.namespace_policies(use.namespace))
        missing = {grant for grant in wanted if held.get(grant) != use.actions}
        foreign = held.keys() - set(wanted) - set(tolerated)
        await self.take(foreign)
        await self.give(use, missing)
        return missing, foreign


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


def blocks(document: Mapping[str, Any]) -> set[str]:
    """The Pulsar subscriptions that are reserved, in Pulsar's document of a namespace.

    >>> blocks({"auth_policies": {"subscription_auth_roles": {"c1-s1": ["nobody!"], "c1-s2": []}}})
    {'c1-s1'}
    """
    roles = (document.get("auth_policies") or {}).get("subscription_auth_roles") or {}
    return {name for name, reserved in roles.items() if reserved}
