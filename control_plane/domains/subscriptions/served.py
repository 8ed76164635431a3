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

    member: Literal["delay_seconds", "conflate", "max_rate"]
    detail: str
    hint: str


def unserved(delivery: Delivery, lanes: Collection[str]) -> Unserved | None:
    """Why no function serves a delivery; None where one does.

    Args:
        lanes: those that functions have which have been seen running.
    """
    delay, conflates = delivery.delay_seconds, delivery.conflates
    if not (delay or conflates) or lane_of(delivery) in lanes:
        return None  # any priority is served by the function without a lane
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


def require_served(subscription: str, delivery: Delivery, before: Delivery) -> None:
    """Refuse bounds by which a live subscription would be both delayed and conflated.

    Args:
        subscription: how it is called.
        before: what it has; nothing is refused for who has both already.

    Raises:
        InvalidRequestError: names the subscription.
    """
    if not (delivery.conflates and delivery.delay_seconds):
        return
    if not (before.conflates and before.delay_seconds):
        detail = f"with it the subscription {subscription} would be both delayed and conflated"
        hint = "no function does both: change the subscription or close it before"
        raise InvalidRequestError(
            f"Refused: {detail}.", [FieldProblem("/entitlements", detail, hint=hint)]
        )
