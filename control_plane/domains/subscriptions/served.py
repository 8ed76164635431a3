"""What no function serves is refused: whoever had it would never receive anything. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NamedTuple

from control_plane.errors import FieldProblem, InvalidRequestError
from marketdata.lanes import delay_of, lane_of
from marketdata.plans import Delivery


class Unserved(NamedTuple):
    """Why no function serves a delivery.

    Attributes:
        member: of the delivery, that asks for it.
        detail, hint: what is wrong, and what to do.
    """

    member: Literal["delay_seconds", "conflate", "max_rate", "follows"]
    detail: str
    hint: str


def unserved(delivery: Delivery, lanes: Collection[str]) -> Unserved | None:
    """Why no function serves a delivery; None where one does.

    Args:
        lanes: those that functions have which have been seen running.
    """
    delay, conflates, follows = delivery.delay_seconds, delivery.conflates, delivery.follows
    if not (delay or conflates or follows) or lane_of(delivery) in lanes:
        return None  # any priority is served by the function without a lane
    if follows:
        return _not_followed(delivery)
    if delay and conflates:
        detail = "no function both delays and conflates; entitlements may ask for either"
        return Unserved("delay_seconds", detail, "drop delay_seconds, or conflate and max_rate")
    if delay:
        there = sorted(filter(None, map(delay_of, lanes)))
        told = f"there are {', '.join(map(str, there))}" if there else "there are none"
        hint = f"{told}; the platform team makes others in the topology, with a lane"
        return Unserved("delay_seconds", f"no function delays by {delay} s", hint)
    hint = "the platform team deploys one, with the lane 'conflated'"
    detail = "no function conflates, or bounds rates"
    return Unserved("conflate" if delivery.conflate else "max_rate", detail, hint)


def _not_followed(delivery: Delivery) -> Unserved:
    asked = {"delays": delivery.delay_seconds, "conflates": delivery.conflates}
    also = next((word for word, wanted in asked.items() if wanted), None)
    if also:
        detail = f"no function both follows a workflow and {also}; entitlements may ask for that"
        return Unserved("follows", detail, "drop follows, or delay_seconds, conflate and max_rate")
    # Which ones there are is not for everybody to know.
    hint = "the platform team knows which can be, and makes others in the topology, with a lane"
    return Unserved("follows", f"no function follows the workflow {delivery.follows!r}", hint)


def _waits(delivery: Delivery) -> list[str]:
    """What a delivery asks for of which a function does one only."""
    asked = {
        "delayed": delivery.delay_seconds,
        "conflated": delivery.conflates,
        "following a workflow": delivery.follows,
    }
    return [word for word, wanted in asked.items() if wanted]


def require_served(subscription: str, delivery: Delivery, before: Delivery) -> None:
    """Refuse bounds by which a live subscription would wait for two things, as a delay and a rate.

    Args:
        subscription: how it is called.
        before: what it has; nothing is refused for who has both already.

    Raises:
        InvalidRequestError: names the subscription.
    """
    both = _waits(delivery)
    if len(both) > 1 and both != _waits(before):
        detail = f"with it the subscription {subscription} would be both {' and '.join(both)}"
        hint = "no function does both: change the subscription or close it before"
        raise InvalidRequestError(
            f"Refused: {detail}.", [FieldProblem("/entitlements", detail, hint=hint)]
        )
