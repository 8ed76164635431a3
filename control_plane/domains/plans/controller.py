"""Routes of plans."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import PathParameter

from control_plane.domains.plans.schemas import PlanDetail, PlanOut
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
    ) -> Page[PlanOut]:
        """Plans, newest first, each with its rollout."""
        return await plans.page(cursor=cursor, limit=limit)

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
