"""The route of rollbacks."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter

from control_plane.domains.rollbacks.schemas import RollbackOut, RollbackRequest
from control_plane.domains.rollbacks.service import RollbackService
from control_plane.idempotency.middleware import Repeatable
from control_plane.pages import LARGEST_NUMBER, IfMatch, etag
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs


class RollbackController(Controller):
    """Going back to an earlier plan."""

    path = "/rollouts"
    tags = ("plans",)

    @post(
        "/{plan:int}/rollback",
        operation_id="rollBackToPlan",
        operation_class=Repeatable,
        summary="Roll back to an earlier plan",
        status_code=200,
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 413, 422, 503),
    )
    async def roll_back(
        self,
        plan: Annotated[
            int, PathParameter(ge=1, le=LARGEST_NUMBER, description="Number of the earlier plan.")
        ],
        data: JSONBody[RollbackRequest],
        rollbacks: NamedDependency[RollbackService],
        if_match: IfMatch = None,
    ) -> Response[RollbackOut]:
        """Put back what has changed since a plan, by one new plan with a higher number.

        That is what subscriptions asked for, what instrument sets and reference tables held, and
        the routing rules. Nobody may receive more by it than entitlements and suspensions allow
        now, nor, without `widen`, than the rules do. What was closed stays closed, what was made
        since goes on. What is not put back is told with the reason.

        The ETag is the number of the newest plan. In If-Match it says that nothing came between a
        dry run and this.
        """
        out, newest = await rollbacks.roll_back(plan, data, if_match)
        return Response(out, headers={"ETag": etag(newest)})
