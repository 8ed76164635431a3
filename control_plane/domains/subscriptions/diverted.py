"""Which subscriptions get another view by what is left to them now of what they ask for.

Pure: no database, no broker. Equal subscriptions are worked out once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from control_plane.domains.subscriptions.conflated import Left, left_of
from control_plane.domains.subscriptions.served import require_served
from control_plane.errors import FieldProblem, InvalidRequestError
from marketdata.entitlements import Bounds, bounded
from marketdata.filters import Filter, FilterTooComplex
from marketdata.plans import ViewSpec, view_of


class Asked(NamedTuple):
    """A live subscription: what it asks for, as JSON text, and the view that it has.

    `conflate_ms` is at which intervals it is conflated because of its backlog; None for not at all.
    """

    id: str
    name: str
    consumer: str
    view: str
    spec: str
    conflate_ms: int | None


class Other(NamedTuple):
    """The view that a subscription gets.

    Attributes:
        allowed: whether it may see on what its old one gets.
        conflated: whether it is because of its backlog.
    """

    spec: ViewSpec
    allowed: bool
    conflated: bool


def diverted(
    asked: Iterable[Asked],
    bounds: Mapping[str, Bounds],
    views: Mapping[str, Any],
    *,
    checked: bool,
) -> dict[str, Other]:
    """The subscriptions that get another view, by id.

    Args:
        bounds: id of a consumer -> what it may receive.
        views: at least the specs of the views that the subscriptions have, as JSON values.
        checked: whether a condition that costs too much is refused.

    Raises:
        InvalidRequestError: names the subscription whose condition would cost too much, or that
            no function would serve.
    """
    made: dict[tuple[str, Bounds, int | None], tuple[Left, str]] = {}
    kept: dict[tuple[str, Bounds], bool] = {}
    others = {}
    for each in asked:
        bound = bounds[each.consumer]
        form = each.spec, bound, each.conflate_ms
        if form not in made:
            wanted = left_of(msgspec.json.decode(each.spec, type=ViewSpec), *form[1:])
            made[form] = wanted, view_of(wanted.spec).id
        (spec, conflated), view = made[form]
        if view == each.view:
            continue
        had = msgspec.convert(views[each.view], ViewSpec)
        if (each.view, bound) not in kept:
            kept[each.view, bound] = view_of(bounded(had, bound)).id == each.view
        require_served(f"{each.name!r} ({each.id})", spec.delivery, had.delivery)
        if checked:
            _check_cost(each, spec, had)
        others[each.id] = Other(spec, kept[each.view, bound], conflated)
    return others


def _check_cost(asked: Asked, spec: ViewSpec, had: ViewSpec) -> None:
    """Refuse a condition that costs too much, unless the one before did."""
    try:
        Filter.from_json(spec.predicate).check_cost()
    except FilterTooComplex as error:
        try:
            Filter.from_json(had.predicate).check_cost()
        except FilterTooComplex:
            return
        detail = (
            f"with it the subscription {asked.name!r} ({asked.id}) of consumer {asked.consumer}"
            f" would cost too much: {error.message}"
        )
        raise InvalidRequestError(
            f"Refused: {detail}.", [FieldProblem("/when", detail, hint=error.hint or None)]
        ) from error
