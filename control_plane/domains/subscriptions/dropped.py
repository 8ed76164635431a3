"""What was dropped of a backlog, as event and history of a subscription tell it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.events.repository import record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.models import HistoryEntry, Subscription


class Dropped(msgspec.Struct, frozen=True):
    """What one look dropped.

    Attributes:
        beyond: how large the backlog was by those of its limits that it was beyond.
        partitions: `partition`, `messages`, and the cursor's place `from` and `to`, if it was told.
    """

    beyond: dict[str, int]
    partitions: list[dict[str, Any]]

    @property
    def messages(self) -> int:
        """How many went, of all partitions."""
        return sum(each["messages"] for each in self.partitions)

    def after(self, before: Mapping[str, Any], until: datetime) -> dict[str, Any]:
        """An entry that tells of this and of what was dropped before it.

        Args:
            before: the data of the entry that told of that.
            until: when this was dropped.
        """
        partitions = {each["partition"]: each for each in before["partitions"]}
        for each in self.partitions:
            first = partitions.get(each["partition"], each | {"messages": 0})
            messages = first["messages"] + each["messages"]
            partitions[each["partition"]] = {**each, "from": first["from"], "messages": messages}
        return {
            "messages": before["messages"] + self.messages,
            "beyond": self.beyond,
            "partitions": [partitions[number] for number in sorted(partitions)],
            "until": until.isoformat(timespec="seconds"),
        }


async def note_dropped(
    session: AsyncSession,
    row: Subscription,
    told: Dropped,
    *,
    merged_within: timedelta,
    kept: timedelta,
) -> None:
    """Tell that messages of a backlog were dropped; the row of the subscription is locked.

    Args:
        merged_within: the newest entry of the history takes it in, if it is one that tells of such
            and is no older.
        kept: older entries of the history that tell of such are forgotten.
    """
    now = datetime.now(UTC)
    data: dict[str, Any] = {"messages": told.messages, "beyond": told.beyond}
    entries = await repository.history(session, row.id, before=None, limit=1)
    newest = next(iter(entries), None)
    of_drop = newest is not None and newest.type == EventType.SUBSCRIPTION_DROPPED.value
    if newest is not None and of_drop and now - newest.at < merged_within:
        newest.data = told.after(newest.data, now)
        await record(session, repository.change_of(EventType.SUBSCRIPTION_DROPPED, row, data))
        return
    await session.execute(
        delete(HistoryEntry)
        .where(
            HistoryEntry.subscription_id == row.id,
            HistoryEntry.type == EventType.SUBSCRIPTION_DROPPED.value,
            HistoryEntry.at < now - kept,
        )
        .execution_options(synchronize_session=False)
    )
    partitions = {"partitions": told.partitions}
    await repository.note(session, EventType.SUBSCRIPTION_DROPPED, [row], partitions, **data)
