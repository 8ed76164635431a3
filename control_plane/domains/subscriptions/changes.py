"""Change of a subscription: what it asks for after a request, and what is told of the difference.

Pure: no database, no broker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from control_plane.domains.subscriptions.health import OwnThresholds
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.schemas import (
    OnBacklog,
    SubscriptionCreate,
    SubscriptionUpdate,
)
from control_plane.domains.transformations.models import SharedTransformation
from marketdata.plans import ViewSpec
from marketdata.transformations import Transformation

VIEW_MEMBERS = ("filter", "transformation", "shared_transformation", "format", "delivery")
"""What decides what is delivered, and so on which topic."""
OWN_MEMBERS = ("name", "group", "on_backlog", "thresholds", "labels")
"""What changes nothing of that."""


def changes_view(data: SubscriptionUpdate) -> bool:
    """Whether a request names something that decides what is delivered."""
    return any(getattr(data, name) is not UNSET for name in VIEW_MEMBERS)


def asked(row: Subscription) -> SubscriptionCreate:
    """What a subscription asks for now; a shared transformation is told by what it holds."""
    spec = msgspec.convert(row.spec, ViewSpec)
    return SubscriptionCreate(
        consumer=row.consumer_id,
        name=row.name,
        filter=row.filter,
        transformation=spec.transformation,
        format=spec.format,
        delivery=spec.delivery,
        group=row.group,
        on_backlog=msgspec.convert(row.on_backlog, OnBacklog),
        thresholds=msgspec.convert(row.thresholds, OwnThresholds),
        labels=row.labels,
        start="latest" if row.next_start == "latest" else "earliest",
    )


def asked_after(now: SubscriptionCreate, data: SubscriptionUpdate) -> SubscriptionCreate:
    """What a subscription asks for after a change.

    >>> now = SubscriptionCreate(consumer="c", name="s", filter="price > 1", format="json")
    >>> after = asked_after(now, SubscriptionUpdate(filter="price > 2"))
    >>> after.filter, after.format
    ('price > 2', 'json')
    """
    members = {name: getattr(data, name) for name in data.__struct_fields__}
    named = {name: value for name, value in members.items() if value is not UNSET}
    if "shared_transformation" in named:
        named.setdefault("transformation", Transformation())
    return msgspec.structs.replace(now, **named)


def with_reference(
    asked_for: SubscriptionCreate, shared: SharedTransformation | None
) -> SubscriptionCreate:
    """The same with the shared transformation, if any, whose content it holds."""
    reference = shared.reference if shared else UNSET
    return msgspec.structs.replace(asked_for, shared_transformation=reference)


def asked_before(
    now: SubscriptionCreate, befores: Iterable[Mapping[str, Any]]
) -> SubscriptionCreate:
    """What a subscription asked for before some changes of it.

    Args:
        now: what it asks for behind them, `with_reference`.
        befores: of each, the oldest first, what `difference` says was before.

    >>> now = SubscriptionCreate(consumer="c", name="s", filter="price > 3", format="json")
    >>> then = asked_before(now, [{"filter": "price > 1"}, {"filter": "price > 2"}])
    >>> then.filter, then.format
    ('price > 1', 'json')
    """
    members = msgspec.to_builtins(now)
    for before in reversed(list(befores)):
        members |= {name: before[name] for name in VIEW_MEMBERS if name in before}
    if members.get("shared_transformation") is None:
        members.pop("shared_transformation", None)
    return msgspec.convert(members, SubscriptionCreate)


def difference(
    before: SubscriptionCreate, after: SubscriptionCreate, members: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Those of some members that a change has changed, as they were and as they are.

    >>> before = SubscriptionCreate(consumer="c", name="s", filter="price > 1")
    >>> difference(before, msgspec.structs.replace(before, filter="price > 2"), VIEW_MEMBERS)
    {'before': {'filter': 'price > 1'}, 'after': {'filter': 'price > 2'}}
    """
    was, becomes = (msgspec.to_builtins(each) for each in (before, after))
    names = [name for name in members if was.get(name) != becomes.get(name)]
    return {
        "before": {name: was.get(name) for name in names},
        "after": {name: becomes.get(name) for name in names},
    }
