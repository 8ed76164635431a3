"""Routes of operations, and those that ask for one."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter

from control_plane.domains.operations.models import OperationKind
from control_plane.domains.operations.repository import LISTING
from control_plane.domains.operations.schemas import OperationOut, StateName
from control_plane.domains.operations.service import OperationService
from control_plane.idempotency.middleware import Repeatable
from control_plane.pages import DEFAULT_LIMIT, Cursor, Limit, Page
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs

ASK_AGAIN_SECONDS = 2

FunctionName = Annotated[str, PathParameter(max_length=128, description="As in /v1/functions.")]


class OperationController(Controller):
    """What takes its time."""

    path = "/operations"
    tags = ("operations",)

    @get(
        "/",
        operation_id="listOperations",
        summary="List operations",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        operations: NamedDependency[OperationService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        target: Annotated[
            str | None,
            QueryParameter(max_length=128, description="Only on this function, or `dead-letters`."),
        ] = None,
        operation_state: Annotated[
            StateName | None, QueryParameter(name="state", description="Absent: all.")
        ] = None,
    ) -> Page[OperationOut]:
        """Operations, newest first."""
        return await operations.page(
            cursor=cursor, limit=limit, sort=sort, target=target, state=operation_state
        )

    @get(
        "/{key:str}",
        operation_id="getOperation",
        summary="Describe an operation",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def read(
        self,
        key: Annotated[str, PathParameter(max_length=64, description="Id of the operation.")],
        operations: NamedDependency[OperationService],
    ) -> Response[OperationOut]:
        """One operation; `Retry-After` says when to ask again, until it has ended."""
        found = await operations.get(key)
        return Response(found, headers=_again(found))


class FunctionOperationController(Controller):
    """What can be done to functions."""

    path = "/functions"
    tags = ("functions",)

    @post(
        "/{name:str}/restart",
        operation_id="restartFunction",
        operation_class=Repeatable,
        summary="Restart a function",
        opt=needs(Permission.OPERATE),
        status_code=202,
        responses=responses(400, 404, 409, 422, 503),
    )
    async def restart(
        self, name: FunctionName, operations: NamedDependency[OperationService]
    ) -> Response[OperationOut]:
        """Start all instances anew; events wait meanwhile, and none is lost or doubled.

        202: stored, and carried out by itself; `Location` names the operation. 409: something is
        being done to the function already.
        """
        return accepted(await operations.ask(OperationKind.RESTART_FUNCTION, name))

    @post(
        "/{name:str}/redeploy",
        operation_id="redeployFunction",
        operation_class=Repeatable,
        summary="Redeploy a function",
        opt=needs(Permission.OPERATE),
        status_code=202,
        responses=responses(400, 404, 409, 422, 503),
    )
    async def redeploy(
        self, name: FunctionName, operations: NamedDependency[OperationService]
    ) -> Response[OperationOut]:
        """Make a function anew as the topology wants it, with the code that it has.

        It goes on where it was. 202 and 409 as of a restart. For new code run
        `scripts/deploy_functions.py apply`.
        """
        return accepted(await operations.ask(OperationKind.REDEPLOY_FUNCTION, name))


def accepted(operation: OperationOut) -> Response[OperationOut]:
    """The answer to who asks for an operation."""
    headers = {"Location": f"/v1/operations/{operation.id}", **_again(operation)}
    return Response(operation, headers=headers)


def _again(operation: OperationOut) -> dict[str, str]:
    return {} if operation.ended_at else {"Retry-After": str(ASK_AGAIN_SECONDS)}
