"""Routes of plans."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import PathParameter

from control_plane.domains.plans.comparing import PlanComparison
from control_plane.domains.plans.repository import LISTING
from control_plane.domains.plans.schemas import (
    PlanDetail,
    PlanDifferenceOut,
    PlanOut,
    RolloutOut,
)
from control_plane.domains.plans.service import PlanService
from control_plane.pages import DEFAULT_LIMIT, LARGEST_NUMBER, Cursor, Limit, Page
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs

Number = Annotated[int, PathParameter(ge=1, le=LARGEST_NUMBER, description="Number of the plan.")]


class PlanController(Controller):
    """What the functions execute."""

    path = "/plans"
    tags = ("plans",)

    @get(
        "/",
        operation_id="listPlans",
        summary="List plans",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        plans: NamedDependency[PlanService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
    ) -> Page[PlanOut]:
        """Plans, newest first, each with its rollout."""
        return await plans.page(cursor=cursor, limit=limit, sort=sort)

    @get(
        "/current",
        operation_id="getCurrentPlan",
        summary="The plan in force",
        opt=needs(Permission.OBSERVE),
        responses=responses(404, 503),
    )
    async def current(self, plans: NamedDependency[PlanService]) -> PlanDetail:
        """The newest published plan with its views and its rollout."""
        return await plans.current()

    @get(
        "/{number:int}",
        operation_id="getPlan",
        summary="Describe a plan",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def read(self, number: Number, plans: NamedDependency[PlanService]) -> PlanDetail:
        """One plan with its views and its rollout."""
        return await plans.get(number)

    @get(
        "/{before:int}/diff/{after:int}",
        operation_id="diffPlans",
        summary="Compare two plans",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def diff(
        self, before: Number, after: Number, plan_comparison: NamedDependency[PlanComparison]
    ) -> PlanDifferenceOut:
        """Views, subscriptions and instrument sets that are added, removed or changed."""
        return await plan_comparison.difference(before, after)


class RolloutController(Controller):
    """How plans come to the functions."""

    path = "/rollouts"
    tags = ("plans",)

    @get(
        "/",
        operation_id="listRollouts",
        summary="List rollouts",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        plans: NamedDependency[PlanService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Page[RolloutOut]:
        """The way of each plan, newest first; of those in force what each instance runs."""
        return await plans.rollouts(cursor=cursor, limit=limit)

    @get(
        "/{plan:int}",
        operation_id="getRollout",
        summary="Describe a rollout",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def read(self, plan: Number, plans: NamedDependency[PlanService]) -> RolloutOut:
        """The way of one plan."""
        return await plans.rollout(plan)
