"""Workflows that views follow: whose subscriptions these wait for, and that none waits for itself.

A subscription waits for a workflow by `delivery.follows`. So the workflow of its consumer waits for
it, too: in a circle everybody would wait for ever. Views that were left count until they are
drained, since what they hold is waited for until then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Select, select, union
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.consumers.models import Consumer
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions.models import LIVE, Move, Subscription, pulsar_name
from control_plane.errors import FieldProblem, InvalidRequestError
from marketdata.lanes import lane_of
from marketdata.plans import Delivery

_FOLLOWS = ViewRow.spec["delivery"]["follows"].astext


class Member(NamedTuple):
    """A Pulsar subscription of a workflow, by topic and name, and the lane of its view."""

    topic: str
    name: str
    lane: str


class Following(NamedTuple):
    """Who belongs to a workflow; nobody is named where no view follows it."""

    members: set[Member]
    waited_for: bool = True


async def following(session: AsyncSession, workflow: str) -> Following:
    """Who belongs to a workflow, if a view follows it.

    Or has done so and its topic has not been taken away: until then a function may have a plan with
    it.
    """
    followed = {followed for _, followed in await _dependencies(session)}
    leaving = select(_FOLLOWS).where(ViewRow.retired_in_plan.is_not(None))
    if workflow not in followed.union(await session.scalars(leaving)):
        return Following(set(), waited_for=False)
    return Following(await _members(session, workflow))


async def _members(session: AsyncSession, workflow: str) -> set[Member]:
    """All that the open subscriptions of a workflow's consumers read, also where they have left."""
    own = Consumer.workflow == workflow
    delivery = ViewRow.spec["delivery"]
    now = _now(ViewRow.topic, delivery, Subscription.consumer_id, Subscription.id).where(own)
    left = _left(ViewRow.topic, delivery, Move.subscription_name).where(
        own, Subscription.state.in_(LIVE)
    )
    lanes: dict[str, str] = {}
    found = set()
    rows = [
        (topic, asked, pulsar_name(consumer, key))
        for topic, asked, consumer, key in await session.execute(now)
    ]
    for topic, asked, name in [*rows, *await session.execute(left)]:
        if topic not in lanes:
            lanes[topic] = lane_of(msgspec.convert(asked, Delivery))
        found.add(Member(topic, name, lanes[topic]))
    return found


class Dependencies:
    """Which workflows wait for which.

    Args:
        named: whether who asks may know them all. Else only its own and what it asks for are named.

    >>> known = Dependencies([("prediction", "analysis"), ("analysis", "quality")])
    >>> known.circle("quality", "prediction")
    ['quality', 'prediction', 'analysis', 'quality']
    >>> known.circle("reports", "prediction")
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], *, named: bool = True) -> None:
        self._named = named
        self._followed: dict[str, set[str]] = {}
        for workflow, followed in pairs:
            self.add(workflow, followed)

    def add(self, workflow: str, followed: str) -> None:
        """A consumer of a workflow has a subscription that follows another one."""
        if workflow:
            self._followed.setdefault(workflow, set()).add(followed)

    def circle(self, workflow: str, follows: str) -> list[str] | None:
        """The circle that one more would close, from a workflow back to it; None for none."""
        ways, seen = [[workflow, follows]], {follows}
        while ways and workflow:
            way = ways.pop(0)
            if way[-1] == workflow:
                return way
            for following in sorted(self._followed.get(way[-1], set()) - seen):
                seen.add(following)
                ways.append([*way, following])
        return None

    def problem(
        self, workflow: str, delivery: Delivery, pointer: str = "/delivery/follows"
    ) -> FieldProblem | None:
        """What is told of the circle that one more would close; None where it is added."""
        if not delivery.follows:
            return None
        found = self.circle(workflow, delivery.follows)
        if found is None:
            self.add(workflow, delivery.follows)
            return None
        told = " follows ".join(map(repr, found))
        hint = "leave one of them out; GET /v1/subscriptions shows what follows what"
        if not self._named:
            told = f"{delivery.follows!r} waits for what {workflow!r} confirms"
            hint = "leave follows out, or ask the platform team, who sees what follows what"
        detail = f"everybody would wait for ever: {told}"
        return FieldProblem(pointer, detail, hint=hint)

    def require_none(self, workflow: str, delivery: Delivery) -> None:
        """Refuse a delivery to a workflow's consumer that would close a circle, else add it.

        Raises:
            InvalidRequestError: names the circle, as far as who asks may know it.
        """
        problem = self.problem(workflow, delivery)
        if problem is not None:
            raise InvalidRequestError(f"follows: {problem.detail}.", [problem])


async def dependencies(session: AsyncSession, *, only: str | None = None) -> Dependencies:
    """Which workflows wait for which now; the caller holds Lock.PLAN_SEQUENCE, or only asks.

    `only` is the id of the one consumer of which the caller may know.
    """
    return Dependencies(await _dependencies(session), named=only is None)


async def require_no_circle(session: AsyncSession, consumer: Consumer) -> None:
    """Refuse a consumer another workflow that would wait for itself; Lock.PLAN_SEQUENCE is held.

    Raises:
        InvalidRequestError: names the circle.
    """
    pairs = await _dependencies(session)
    known = Dependencies(pairs)
    for workflow, follows in sorted(pairs):
        if workflow != consumer.workflow:
            continue
        problem = known.problem(workflow, Delivery(follows=follows), "/workflow")
        if problem is not None:
            raise InvalidRequestError(f"workflow: {problem.detail}.", [problem])


async def _dependencies(session: AsyncSession) -> Collection[tuple[str, str]]:
    """Workflows of consumers, "" for none, with those that their open subscriptions follow."""
    held = (_now, _left)
    found = await session.execute(
        union(*(of(Consumer.workflow, _FOLLOWS).where(_FOLLOWS.is_not(None)) for of in held))
    )
    return [(workflow, followed) for workflow, followed in found]


def _now(*columns: Any) -> Select[Any]:
    """Of live subscriptions, with their consumers and the views that they have."""
    return (
        select(*columns)
        .select_from(Subscription)
        .join(Subscription.consumer)
        .join(Subscription.view)
        .where(Subscription.state.in_(LIVE))
    )


def _left(*columns: Any) -> Select[Any]:
    """Of subscriptions, with their consumers and the views that they left and may still drain."""
    return (
        select(*columns)
        .select_from(Move)
        .join(Move.subscription)
        .join(Subscription.consumer)
        .join(Move.view)
        .where(Move.ended_at.is_(None))
    )
