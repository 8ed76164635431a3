"""Groups as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from control_plane.domains.groups.membership import Departed, Member


class GroupOut(msgspec.Struct):
    """The members of one subscription, as they were last seen."""

    subscription: Annotated[str, Meta(description="Id of the subscription, and of its group.")]
    name: Annotated[
        str, Meta(description="The subscription's `group`; without, the subscription's own name.")
    ]
    consumer: str
    consumer_name: str
    members: list[Member]
    changed_at: Annotated[
        datetime | None,
        Meta(description="When a change of members or of what they read was last seen."),
    ]


class ReadingMember(Member, frozen=True):
    """A member as it reads now; messages are frames of events."""

    rate: Annotated[float, Meta(description="Messages a second; the broker looks once a minute.")]
    redelivery_rate: Annotated[float, Meta(description="Messages sent to it again, a second.")]
    delivered_messages: int
    unacknowledged_messages: Annotated[
        int,
        Meta(
            description="What waits in the partitions that it reads until it is acknowledged, "
            "delivered or not: the broker does not tell them apart."
        ),
    ]
    last_delivered_at: datetime | None
    last_acknowledged_at: datetime | None


class GroupDetailOut(msgspec.Struct):
    """The members of one subscription, asked of the broker at this moment."""

    subscription: str
    name: str
    consumer: str
    consumer_name: str
    topic: str
    partitions: Annotated[int, Meta(description="Of the topic.")]
    unread: Annotated[list[int], Meta(description="Partitions that no member reads.")]
    members: list[ReadingMember]
    departed: Annotated[
        list[Departed], Meta(description="Who was there and is not, the latest first.")
    ]
    changed_at: datetime | None
