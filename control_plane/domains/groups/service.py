"""Who reads under subscriptions: as it was last seen for lists, asked of the broker for one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from control_plane.database import Database
from control_plane.domains.groups import repository
from control_plane.domains.groups.membership import (
    Departed,
    Member,
    compare,
    connections,
    departed,
    members,
)
from control_plane.domains.groups.schemas import GroupDetailOut, GroupOut, ReadingMember
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.health import moment
from control_plane.domains.subscriptions.models import State
from control_plane.errors import BrokerUnavailableError, NotFoundError
from control_plane.pages import Page
from control_plane.pulsar_admin import AdminError, AdminNotFound, PulsarAdmin
from control_plane.pulsar_values import SubscriptionStats


class GroupService:
    """Lists and describes groups.

    `only` is the id of the one consumer of whose subscriptions the caller may know.
    """

    def __init__(self, database: Database, admin: PulsarAdmin) -> None:
        self._database = database
        self._admin = admin

    async def page(
        self,
        *,
        cursor: str | None,
        limit: int,
        sort: str | None = None,
        consumer: str | None,
        name: str | None,
        occupied: bool | None,
        only: str | None = None,
    ) -> Page[GroupOut]:
        """One page of the groups of live subscriptions, as they were last seen."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(
                session,
                asked,
                consumer=consumer,
                name=name,
                occupied=occupied,
                only=only,
            )
        items = [
            GroupOut(
                subscription=row.id,
                name=row.group_name,
                consumer=row.consumer_id,
                consumer_name=row.consumer.name,
                members=msgspec.convert(group.members, list[Member]) if group else [],
                changed_at=group.changed_at if group else None,
            )
            for row, group in rows
        ]
        return asked.page(items, [row for row, _ in rows])

    async def describe(self, key: str, *, only: str | None = None) -> GroupDetailOut:
        """The group of a subscription as it is now.

        Raises:
            NotFoundError: there is no such subscription, or it is closed.
            BrokerUnavailableError: the broker cannot be asked.
        """
        async with self._database.transaction() as session:
            row = await subscription_rows.find(session, key, only=only)
            if row.state == State.CLOSED:
                raise NotFoundError("group", key, hint="its subscription is closed")
            kept = await repository.of(session, key)
        try:
            stats = await self._admin.partitioned_stats(row.view.topic)
        except AdminNotFound:
            partitions: Mapping[int, SubscriptionStats] = {}
            count = 0
        except AdminError as error:
            raise BrokerUnavailableError("The broker's admin API failed.") from error
        else:
            count = len(stats.partitions)
            partitions = {
                number: each.subscriptions[row.subscription_name]
                for number, each in stats.partitions.items()
                if row.subscription_name in each.subscriptions
            }
        now = datetime.now(UTC)
        seen = msgspec.convert(kept.members, list[Member]) if kept else []
        gone = msgspec.convert(kept.departed, list[Departed]) if kept else []
        found = compare(seen, members(partitions, now))
        # One that is being loaded has no cursor yet, which does not say that its reader left.
        left = found.left if len(partitions) == count else []
        read = {number for each in found.members for number in each.partitions}
        return GroupDetailOut(
            subscription=row.id,
            name=row.group_name,
            consumer=row.consumer_id,
            consumer_name=row.consumer.name,
            topic=row.view.topic,
            partitions=count,
            unread=[number for number in range(count) if number not in read],
            members=_reading(found.members, partitions),
            departed=departed(gone, left, found.joined, now),
            changed_at=kept.changed_at if kept else None,
        )


def _reading(
    found: list[Member], partitions: Mapping[int, SubscriptionStats]
) -> list[ReadingMember]:
    """The figures of each member, of all its connections."""
    clients = connections(partitions)
    told = []
    for member in found:
        each = [one for at in clients[member.name].values() for one in at]
        told.append(
            ReadingMember(
                **{name: getattr(member, name) for name in Member.__struct_fields__},
                rate=sum(one.rate_out for one in each),
                redelivery_rate=sum(one.rate_redelivered for one in each),
                delivered_messages=sum(one.delivered_messages for one in each),
                unacknowledged_messages=sum(
                    partitions[number].backlog_messages for number in member.partitions
                ),
                last_delivered_at=moment(max(one.last_delivered_ms for one in each)),
                last_acknowledged_at=moment(max(one.last_acknowledged_ms for one in each)),
            )
        )
    return told
