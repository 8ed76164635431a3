"""Lets subscriptions follow a change of the rules, in the transaction of the change."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.consumers.models import Consumer
from control_plane.domains.plans import repository as plan_rows
from control_plane.domains.rules.policy import Policy
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.domains.subscriptions.moves import follow_bounds
from marketdata.entitlements import Bounds


async def follow_policy(
    session: AsyncSession, before: Policy, after: Policy, *, drain_seconds: float
) -> int:
    """Give the subscriptions of every consumer for whom the rules say something else other views.

    The caller holds Lock.PLAN_SEQUENCE.

    Returns:
        The plan from which the rules hold: the newest one where they change no view.

    Raises:
        InvalidRequestError, ConflictError: see `follow_bounds`.
    """
    bounds = await bounds_changed(session, before, after)
    plan = None
    if bounds:
        plan = await follow_bounds(session, bounds, reason="rules", drain_seconds=drain_seconds)
    if plan is not None:
        return plan
    newest = await plan_rows.newest(session)
    return newest.number if newest else 0


async def bounds_changed(session: AsyncSession, before: Policy, after: Policy) -> dict[str, Bounds]:
    """What those consumers may receive, and how, by id, for whom rules say something else."""
    return {
        consumer.id: after.allowed(consumer)
        for consumer in await subscription_rows.receiving(session)
        if _said(after, consumer) != _said(before, consumer)
    }


def _said(policy: Policy, consumer: Consumer) -> tuple[object, object]:
    return policy.routed(consumer), policy.priorities(consumer)
