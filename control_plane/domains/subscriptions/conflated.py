"""What is delivered to a subscription: what is left of what it asks for, ranked, conflated or not.

Pure, and the only place where that is worked out: for a new subscription, a changed one, one whose
consumer may receive something else, and one whose backlog has become too large or small again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import msgspec

from control_plane.domains.subscriptions.schemas import OnBacklog
from control_plane.domains.subscriptions.served import unserved
from control_plane.errors import FieldProblem, InvalidRequestError
from marketdata.conflation import RATE_INTERVAL_MS
from marketdata.entitlements import Bounds, bounded
from marketdata.filters import Filter
from marketdata.plans import Conflate, ViewSpec
from marketdata.routing_rules import priority_of
from marketdata.view_schemas import kinds_of


class Left(NamedTuple):
    """A view, and whether it is conflated because of a backlog."""

    spec: ViewSpec
    conflated: bool = False


def left_of(asked: ViewSpec, allowed: Bounds, conflate_ms: int | None) -> Left:
    """The view that a subscription has in place of the one that it asks for.

    Args:
        allowed: what its consumer may receive, and with which priorities.
        conflate_ms: at which intervals it is to be conflated because of its backlog, if it can be;
            None for not at all.
    """
    spec = _prioritized(bounded(asked, allowed), allowed)
    if conflate_ms is None or hindrance(spec, conflate_ms):
        return Left(spec)
    return Left(conflated(spec, conflate_ms), conflated=True)


def _prioritized(spec: ViewSpec, allowed: Bounds) -> ViewSpec:
    """The view with the priority that rules give it, if one does; what it asks for is beaten.

    What is delayed, conflated or follows a workflow has none (`Delivery.canonical`).
    """
    waits = spec.delivery.delay_seconds or spec.delivery.conflates or spec.delivery.follows
    if not allowed.priorities or waits:
        return spec
    given = priority_of(Filter.from_json(spec.predicate), allowed.priorities)
    if given is None:
        return spec
    delivery = msgspec.structs.replace(spec.delivery, priority=given).canonical()
    return msgspec.structs.replace(spec, delivery=delivery)


def conflated(spec: ViewSpec, every_ms: int) -> ViewSpec:
    """A view that nothing hinders, conflated, as who asks for `delivery.conflate` has it."""
    delivery = msgspec.structs.replace(spec.delivery, conflate=Conflate(every_ms))
    return msgspec.structs.replace(spec, delivery=delivery.canonical())


def require_conflatable(spec: ViewSpec, on_backlog: OnBacklog, lanes: Collection[str]) -> None:
    """Refuse that a backlog has a view conflated which cannot be.

    Args:
        spec: what is left of what was asked for.
        lanes: those that functions have which have been seen running.

    Raises:
        InvalidRequestError: with the reason.
    """
    problem = refusal(spec, on_backlog, lanes)
    if problem:
        raise InvalidRequestError(f"on_backlog: {problem.detail}.", [problem])


def refusal(spec: ViewSpec, on_backlog: OnBacklog, lanes: Collection[str]) -> FieldProblem | None:
    """Why a backlog cannot have a view conflated; None where it can, or is not asked to.

    Args:
        spec, lanes: as of `require_conflatable`.
    """
    if on_backlog.policy != "conflate" or on_backlog.every_ms is None:
        return None
    found = hindrance(spec, on_backlog.every_ms)
    nobody = unserved(conflated(spec, on_backlog.every_ms).delivery, lanes)
    if found is None and nobody is not None:
        found = FieldProblem("/on_backlog/policy", nobody.detail, hint=nobody.hint)
    return found


def hindrance(spec: ViewSpec, every_ms: int) -> FieldProblem | None:
    """Why a backlog cannot have a view conflated; None where it can.

    Args:
        spec: what is left of what was asked for.
    """
    delivery = spec.delivery
    policy, interval = "/on_backlog/policy", "/on_backlog/every_ms"
    other = "or choose drop_oldest, disconnect or hold"
    if delivery.delay_seconds:
        detail = "what is delayed cannot be conflated, too"
        return FieldProblem(policy, detail, hint=f"drop delay_seconds, {other}")
    if delivery.follows:
        detail = "what follows a workflow cannot be conflated, too"
        return FieldProblem(policy, detail, hint=f"drop follows, {other}")
    if delivery.together:
        detail = "messages of conflated events hold events of one kind"
        return FieldProblem(policy, detail, hint=f"leave kinds apart, {other}")
    if kinds_of(spec) == ("book",):
        detail = "changes of an order book say nothing without those before them"
        return FieldProblem(policy, detail, hint=f"subscribe to quotes, {other}")
    there = delivery.conflate.every_ms if delivery.conflate else RATE_INTERVAL_MS
    if delivery.conflates and every_ms <= there:
        detail = f"it has intervals of {there} ms as it is"
        return FieldProblem(interval, detail, hint=f"ask for longer ones, {other}")
    return None
