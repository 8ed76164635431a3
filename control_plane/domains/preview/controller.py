"""The route of previews."""

from __future__ import annotations

from litestar import Controller, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from control_plane.domains.preview.schemas import PreviewOut, Proposal
from control_plane.domains.preview.service import PreviewService
from control_plane.problems import responses
from control_plane.security.callers import Caller
from control_plane.security.permissions import Permission, needs


class PreviewController(Controller):
    """What a change would do, before it is made."""

    path = "/plans:preview"
    tags = ("plans",)

    @post(
        "/",
        operation_id="previewPlan",
        summary="Try a change on the last minutes",
        status_code=200,
        opt=needs(Permission.SUBSCRIBE),
        responses=responses(400, 404, 409, 422, 503),
    )
    async def preview(
        self,
        data: JSONBody[Proposal],
        previews: NamedDependency[PreviewService],
        caller: NamedDependency[Caller],
    ) -> PreviewOut:
        """Per subscription the events that would appear, vanish or change, with samples.

        Nothing is stored and nobody's position changes. A consumer may try changes of its own
        subscriptions; entitlements, instrument sets, routing rules and shared transformations are
        the platform team's. What the request that makes the change would refuse is refused here,
        too. 429: too many previews are under way.
        """
        who = f"{caller.role}:{caller.subject}"
        return await previews.preview(data, caller=who, only=caller.consumer)
