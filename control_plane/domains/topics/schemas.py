"""Topics as they travel over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

TopicState = Literal["present", "drifted", "missing", "left over"]


class TopicOut(msgspec.Struct):
    """A topic as it should be, and as it is."""

    key: Annotated[
        str,
        Meta(
            description="As in `topology/topics.yaml`; `view-` and the view's id for its topic.",
            examples=["ingest", "view-0123456789abcdef"],
        ),
    ]
    name: Annotated[str, Meta(description="Full name at the broker.")]
    desired_partitions: Annotated[
        int | None,
        Meta(description="0: not partitioned; null: it should not be there."),
    ]
    actual_partitions: Annotated[int | None, Meta(description="Null where there is no such topic.")]
    state: Annotated[
        TopicState,
        Meta(
            description="`drifted`: partitions differ. `missing`: of a view it is made again by the"
            " reconciler, else by `deploy_functions.py apply`. `left over`: of a view that no"
            " subscription has; it goes when no function needs it any more."
        ),
    ]


class TopicList(msgspec.Struct):
    """All topics that the topology declares, by key."""

    items: list[TopicOut]


class TopicDetailOut(TopicOut):
    """A topic with what the broker counts since it loaded it; messages are frames of events."""

    messages_in: int
    rate_in: Annotated[float, Meta(description="Messages a second; looked at once a minute.")]
    rate_out: float
    storage_bytes: int
    backlog_bytes: int
    producers: int
    subscriptions: Annotated[int, Meta(description="Pulsar subscriptions on it.")]
