"""Making subscriptions: what is asked for together is stored together, and under one plan.

Each is checked by itself, and what is wrong with one of many is told with its place
(`/subscriptions/17/filter`). Statements are of all of them: a subscription more costs its rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import set_committed_value

from control_plane.database import Lock, lock, lock_each
from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.consumers.models import Consumer
from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.subscriptions import repository
from control_plane.domains.subscriptions.backlog import check
from control_plane.domains.subscriptions.beginnings import Found
from control_plane.domains.subscriptions.beginnings import check as check_start
from control_plane.domains.subscriptions.followed import dependencies
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.references import declared_spec, refers, taken_over
from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.domains.subscriptions.view_check import (
    entitled_spec,
    named_tables,
    require_receiving,
    require_sets,
    view_spec,
)
from control_plane.domains.transformations.models import SharedTransformation
from control_plane.errors import ConflictError, TooManySubscriptionsError, at_pointer
from control_plane.requests import current_request_id
from marketdata.plans import ViewSpec, sets_of, view_of


class NeedsPlanError(Exception):
    """No live subscription has one of the views, or one waits for a workflow."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A subscription that is asked for.

    Attributes:
        pointer: where in the request it stands; "" for the whole of it.
        spec: the view that it asks for; None where the database has to be asked what that is.
        found: where it begins, if it names a place on the topic of its view.
    """

    id: str
    data: SubscriptionCreate
    pointer: str
    spec: ViewSpec | None
    found: Found | None = None


class _Declared(NamedTuple):
    """The same with what it refers to."""

    asked: Asked
    data: SubscriptionCreate
    spec: ViewSpec
    reference: SharedTransformation | None


class Resolved(NamedTuple):
    """What it comes to, as things are.

    Attributes:
        data: as it was asked, with what a shared transformation (`reference`) holds.
        effective: what the consumer may receive of `spec`.
    """

    asked: Asked
    data: SubscriptionCreate
    reference: SharedTransformation | None
    spec: ViewSpec
    consumer: Consumer
    effective: ViewSpec


def checked(data: Sequence[SubscriptionCreate], pointer: str) -> list[Asked]:
    """What requests ask for, as far as that can be said without the database.

    Args:
        pointer: where they stand, with `{}` for the number of each.

    Raises:
        InvalidRequestError: one is refused.
    """
    found = []
    for number, each in enumerate(data):
        with at_pointer(place := pointer.format(number)):
            check(each.on_backlog)
            check_start(each.start, datetime.now(UTC))
            named = named_tables(each.transformation)
            spec = None if refers(each) or named else view_spec(each)
        found.append(Asked(repository.new_subscription_id(), each, place, spec))
    return found


async def store(
    session: AsyncSession,
    asked: Sequence[Asked],
    *,
    only: str | None,
    lanes: Collection[str],
    most: int,
    joining: bool,
) -> list[Subscription]:
    """Store subscriptions; gives them, in order, with what is told of each.

    Those that join live views are made side by side with others; those for which a plan is made,
    one request after the other.

    Args:
        only: the id of the one consumer that there is as far as the caller is concerned.
        most: how many live ones a consumer may have.
        joining: whether no plan is made.

    Raises:
        NeedsPlanError: `joining`, and nobody has one of the views, or one follows a workflow: two
            that are made side by side could close a circle.
        InvalidRequestError, NotFoundError, ConflictError: one is refused.
    """
    await lock(session, Lock.PLAN_SEQUENCE, shared=joining)
    made = await resolved(session, asked, only=only, lanes=lanes, for_share=True)
    ids = [view_of(each.effective).id for each in made]
    wanted = {key: each.effective for key, each in zip(ids, made, strict=True)}
    live, newest = await plan_rows.joinable(session, wanted)
    absent = {key: spec for key, spec in wanted.items() if key not in live}
    if joining and (absent or any(each.effective.delivery.follows for each in made)):
        raise NeedsPlanError
    views = live | {
        key: await plan_rows.ensure_view(session, absent[key]) for key in sorted(absent)
    }
    rows = [
        Subscription(
            id=each.asked.id,
            consumer_id=each.consumer.id,
            view_id=key,
            name=each.data.name,
            filter=each.data.filter,
            spec=plan_rows.spec_json(each.spec),
            transformation_id=each.reference.id if each.reference else None,
            start=each.data.start if isinstance(each.data.start, str) else "place",
            start_place=each.asked.found.stored() if each.asked.found else None,
            group=each.data.group,
            on_backlog=msgspec.to_builtins(each.data.on_backlog),
            thresholds=msgspec.to_builtins(each.data.thresholds),
            labels=each.data.labels,
            plan=newest,
        )
        for each, key in zip(made, ids, strict=True)
    ]
    await _require_room(session, [each.consumer for each in made], most)
    session.add_all(rows)
    await session.flush()
    if absent:
        number = await plan_rows.compile_next(session, current_request_id(), growing=True)
        for row in rows:
            row.plan = number if row.view_id in absent else newest
    await repository.note(session, EventType.SUBSCRIPTION_CREATED, rows)
    for row, each in zip(rows, made, strict=True):
        told: dict[str, object] = {
            "consumer": each.consumer,
            "view": views[row.view_id],
            "shared_transformation": each.reference,
            "draining": [],
        }
        for name, value in told.items():
            set_committed_value(row, name, value)
    return rows


async def _require_room(session: AsyncSession, owners: Sequence[Consumer], most: int) -> None:
    """Refuse what would give a consumer more than it may have.

    Nobody else makes subscriptions of these consumers until the transaction ends.

    Args:
        owners: of what is to be stored: as often as they ask.
        most: as of `store`.
    """
    asked = Counter(owner.id for owner in owners)
    await lock_each(session, Lock.SUBSCRIPTIONS_OF, asked)
    # Only now, by a statement of its own: it sees what was made while this one waited.
    there = await repository.count_live(session, asked)
    for owner in owners:
        if there[owner.id] + asked[owner.id] > most:
            raise TooManySubscriptionsError(
                owner.name, there=there[owner.id], asked=asked[owner.id], limit=most
            )


async def resolved(
    session: AsyncSession,
    asked: Sequence[Asked],
    *,
    only: str | None,
    lanes: Collection[str],
    for_share: bool = False,
) -> list[Resolved]:
    """What subscriptions come to that are asked for, in order.

    Args:
        only, lanes: as of `store`.
        for_share: keep the rows of their consumers as they are.

    Raises:
        InvalidRequestError, NotFoundError, ConflictError: one is refused.
    """
    declared = [await _declared(session, each) for each in asked]
    # Only now the row locks: every transaction takes the plan sequence first.
    owners = await consumer_rows.named(
        session, {each.data.consumer for each in asked}, only=only, for_share=for_share
    )
    sets = await set_rows.contents(session, sets_of([each.spec for each in declared]))
    policy = await rule_rows.policy(session)
    following = any(each.spec.delivery.follows for each in declared)
    known = await dependencies(session, only=only) if following else None
    found = []
    for each, data, spec, reference in declared:
        with at_pointer(each.pointer):
            consumer = owners[data.consumer]
            require_receiving(consumer)
            require_sets(data, spec, sets)
            left = entitled_spec(data, spec, consumer, policy, consumer.allowed, lanes)
            if known is not None:
                known.require_none(consumer.workflow, spec.delivery)
        if each.found is not None and each.found.view != view_of(left.spec).id:
            raise ConflictError(
                "What the consumer may receive is being changed: send the request again."
            )
        found.append(Resolved(each, data, reference, spec, consumer, left.spec))
    return found


async def _declared(session: AsyncSession, asked: Asked) -> _Declared:
    """What is asked for with what it refers to."""
    data, reference = asked.data, None
    if asked.spec is not None:
        return _Declared(asked, data, asked.spec, None)
    with at_pointer(asked.pointer):
        if refers(data):
            data, reference = await taken_over(session, data)
        return _Declared(asked, data, await declared_spec(session, data), reference)
