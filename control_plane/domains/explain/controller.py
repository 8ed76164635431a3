"""The route of explanations."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from control_plane.domains.explain.events import Sought
from control_plane.domains.explain.schemas import ExplanationOut
from control_plane.domains.explain.service import ExplainService
from control_plane.domains.ordering.controller import MAX_SYMBOL
from control_plane.pages import LARGEST_NUMBER
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs


class ExplainController(Controller):
    """Why a subscription got an event or did not."""

    path = "/explain"
    tags = ("subscriptions",)

    @get(
        operation_id="explainDelivery",
        summary="Why an event was or was not delivered",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def explain(
        self,
        explanations: NamedDependency[ExplainService],
        subscription: Annotated[
            str, QueryParameter(max_length=64, description="Id of the subscription.")
        ],
        instrument: Annotated[
            str,
            QueryParameter(min_length=1, max_length=MAX_SYMBOL, description="Name, as published."),
        ],
        sequence: Annotated[
            int, QueryParameter(ge=1, le=LARGEST_NUMBER, description="Our number of the event.")
        ],
        epoch: Annotated[
            int | None,
            QueryParameter(gt=-1, le=2**32 - 1, description="Absent: the newest of its partition."),
        ] = None,
    ) -> ExplanationOut:
        """Verdict and reason, with the event, the filter's parts and the view's message.

        For the platform team: what a subscription did not get may be what its consumer may not see.

        404: no such subscription, or the log does not hold the event (not yet, not any more, or
        not found within the bounds of a request); the detail says which.
        """
        return await explanations.explain(subscription, Sought(instrument, sequence, epoch))
