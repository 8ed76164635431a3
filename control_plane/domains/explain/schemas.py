"""Explanations as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from control_plane.domains.explain.verdict import Verdict
from marketdata.routing_rules import Decision, Share

LogPosition = Annotated[str, Meta(description="ledger:entry:index", examples=["731:12:0"])]


class EventOut(msgspec.Struct):
    """An event as the log holds it."""

    instrument: str
    kind: str
    sequence: int
    epoch: int
    partition: int
    position: LogPosition
    ts_event: Annotated[str, Meta(description="ISO 8601 with nanoseconds, UTC.")]
    ts_sequenced: str


class FilterOut(msgspec.Struct):
    """A view's filter on an event.

    `parts` is the condition taken apart: `sql`, `value` (null for NULL), `columns` with what the
    event has in them, and `parts` of AND, OR and NOT. It is null when a set is not there any more.
    """

    canonical: str
    passes: Annotated[bool | None, Meta(description="With the sets as they are now.")]
    parts: dict[str, Any] | None


class RuleOut(msgspec.Struct):
    """A routing rule that selects the consumer, on an event; `parts` as of the filter."""

    name: str
    id: str
    position: Annotated[int, Meta(description="Among all rules.")]
    effect: Decision
    matches: Annotated[
        bool | None, Meta(description="Null when it names a set that is not there any more.")
    ]
    parts: dict[str, Any] | None


class PriorityRuleOut(msgspec.Struct):
    """A routing rule that prioritizes and selects the consumer, on the view."""

    name: str
    id: str
    position: Annotated[int, Meta(description="Among all rules.")]
    priority: int
    covers: Annotated[
        Share,
        Meta(
            description="How many of the view's events match it. It applies where that is every "
            "one; `some` is said, too, where nothing else can be shown."
        ),
    ]


class PriorityOut(msgspec.Struct):
    """The view's priority, and where it is from."""

    priority: int
    reason: str
    rules: Annotated[
        list[PriorityRuleOut],
        Meta(
            description="The enabled routing rules that prioritize and select the consumer, as they"
            " are now, up to the first one that applies to the view: that one decides."
        ),
    ]


class SetOut(msgspec.Struct):
    """An instrument set that the filter names, as it is now; nulls when it is gone."""

    name: str
    version: int | None
    plan: Annotated[int | None, Meta(description="The plan from which this version holds.")]
    size: int | None
    holds_instrument: bool | None


class DeliveryOut(msgspec.Struct):
    """The view's message that has the event or, with a null `delivery_sequence`, has passed it."""

    topic: str
    position: LogPosition
    published_at: datetime
    plan: Annotated[int, Meta(description="The plan under which it was made.")]
    delivery_epoch: int
    delivery_sequence: int | None


class ExplanationOut(msgspec.Struct):
    """Why a subscription got an event or did not."""

    subscription: str
    view: str
    verdict: Verdict
    reason: str
    event: EventOut
    plan: Annotated[
        int | None, Meta(description="The published plan that runs the view now; null for none.")
    ]
    filter: FilterOut
    rules: Annotated[
        list[RuleOut],
        Meta(
            description="The enabled routing rules that allow or deny and select the consumer, as"
            " they are now, up to the first one that matches: that one decides; where none does,"
            " rules allow it."
        ),
    ]
    priority: PriorityOut
    sets: list[SetOut]
    delivery: DeliveryOut | None
