"""Routes of functions."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import PathParameter

from control_plane.domains.functions.schemas import FunctionList, FunctionOut
from control_plane.domains.functions.service import StatusBoard
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs


class FunctionController(Controller):
    """What runs inside the broker."""

    path = "/functions"
    tags = ("functions",)

    @get(
        "/",
        operation_id="listFunctions",
        summary="List functions",
        opt=needs(Permission.OBSERVE),
        responses=responses(400),
    )
    async def list_(self, board: NamedDependency[StatusBoard]) -> FunctionList:
        """Every function with its instances, their plan, version and counters."""
        return board.listing()

    @get(
        "/{name:str}",
        operation_id="getFunction",
        summary="Describe a function",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404),
    )
    async def read(
        self,
        name: Annotated[str, PathParameter(max_length=128)],
        board: NamedDependency[StatusBoard],
    ) -> FunctionOut:
        """One function."""
        return board.describe(name)
