"""Whether a subscription got an event, from what the log, the filter and the view's topic say.

Pure. What stands in the view's topic is the proof; the filter as it is now only explains it, since
instrument sets may have changed since the event was routed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from control_plane.domains.explain.events import ViewMessage, ViewTrace
from marketdata.positions import Position

Verdict = Literal[
    "delivered", "filtered", "conflated", "before_start", "after_end", "not_yet", "unknown"
]


@dataclass(frozen=True, slots=True)
class Span:
    """When a subscription takes events.

    Attributes:
        earliest: it began with what its view's topic held.
        begins: where it began in the event's partition, where it named a time or sequences.
        first_of_view: no older subscription has the view, so all of the view's topic is behind its
            beginning.
        activated_at, closed_at: None before that.
    """

    earliest: bool
    first_of_view: bool
    created_at: datetime
    activated_at: datetime | None
    closed_at: datetime | None
    begins: Position | None = None


def judge(
    *,
    sequenced_at: datetime,
    place: int,
    passes: bool | None,
    passes_now: bool | None,
    span: Span,
    trace: ViewTrace,
    broken: Sequence[str] = (),
) -> tuple[Verdict, str]:
    """The verdict and a sentence that says why.

    Args:
        place: of the event's frame in the log, packed.
        passes: whether the filter lets the event pass, with its sets as the plan of the view's
            message had them; None when a set of it is not there any more.
        passes_now: the same with the sets as they are now.
        broken: rules of the transformation that keep the event from the view.
    """
    message = trace.message
    if message is not None and message.row is not None:
        return _held(message, passes=passes_now, span=span)
    closed = span.closed_at is not None
    hidden = message is not None and not trace.preceded
    begins = message is not None and message.first_delivery == 1 and message.place > place
    rules: tuple[tuple[bool, Verdict, str], ...] = (
        (passes is False, "filtered", "The filter does not let the event pass."),
        (
            bool(broken),
            "filtered",
            (
                "The event breaks validation rules of the transformation, which keep it from the"
                f" view: {', '.join(broken)}."
            ),
        ),
        (
            trace.skipped,
            "conflated",
            (
                "The event was skipped: the view is conflated, and the message at its place tells"
                " it with the range that was skipped."
            ),
        ),
        (
            passes is None,
            "unknown",
            (
                "An instrument set of the filter is not there any more, and the view's topic does"
                " not show the event."
            ),
        ),
        (
            span.closed_at is not None and sequenced_at > span.closed_at,
            "after_end",
            "The event was sequenced after the subscription was closed.",
        ),
        (
            not trace.preceded and sequenced_at < span.created_at,
            "before_start",
            (
                "The event was sequenced before the subscription was made, and the view's topic"
                " does not reach back to it."
            ),
        ),
        (
            message is None and closed,
            "unknown",
            "The view's topic does not show the event; the subscription is closed.",
        ),
        (
            trace.emptied,
            "unknown",
            (
                "The filter lets the event pass, but the view's topic is empty: retention has"
                " removed what was there."
            ),
        ),
        (
            message is None,
            "not_yet",
            (
                "The filter lets the event pass, and the view has not come to it yet: its"
                " distributor is behind or does not run, or the view is delayed, or it follows a"
                " workflow that has not confirmed the event."
            ),
        ),
        (hidden and begins, "before_start", "The view began behind the event."),
        (
            hidden,
            "unknown",
            (
                "The filter lets the event pass, but the view's topic does not reach back to it:"
                " retention has removed what was there."
            ),
        ),
        (
            message is not None and not message.readable,
            "unknown",
            "The filter lets the event pass, but the message at its place cannot be decoded here.",
        ),
    )
    gone_on = (
        "The filter lets the event pass, but the view has gone on without it: look for its frame"
        " among the distributor's dead letters. A custom transformation may have left it out, too."
    )
    told = ((verdict, reason) for holds, verdict, reason in rules if holds)
    return next(told, ("unknown", gone_on))


def _held(message: ViewMessage, *, passes: bool | None, span: Span) -> tuple[Verdict, str]:
    """The verdict on an event that stands in the view's topic."""
    published_at = message.published_at
    since = "" if passes else " (By its sets as they are now the filter would not let it pass.)"
    if span.closed_at is not None and published_at > span.closed_at:
        return "after_end", f"The event came after the subscription was closed.{since}"
    behind = span.earliest or span.first_of_view
    before = published_at < span.created_at
    if span.begins is not None:
        behind = message.position[:2] >= span.begins[:2]
        before = not behind
    active = span.activated_at is not None and published_at >= span.activated_at
    if behind or (active and not before):
        return "delivered", f"The event stands in the view's topic for the subscription.{since}"
    if before:
        return "before_start", (
            "The event stands in the view's topic, but from before the subscription, which began"
            f" with what came after it.{since}"
        )
    return "unknown", (
        "The event came into the view's topic in the moment in which the subscription began; which"
        f" of the two was first is not known.{since}"
    )
