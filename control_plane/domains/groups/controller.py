"""Routes of groups."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter

from control_plane.domains.groups.repository import LISTING
from control_plane.domains.groups.schemas import GroupDetailOut, GroupOut
from control_plane.domains.groups.service import GroupService
from control_plane.pages import DEFAULT_LIMIT, Cursor, Limit, Page
from control_plane.problems import responses
from control_plane.security.callers import Caller
from control_plane.security.permissions import Permission, needs


class GroupController(Controller):
    """Who reads under a subscription."""

    path = "/groups"
    tags = ("groups",)

    @get(
        "/",
        operation_id="listGroups",
        summary="List groups",
        opt=needs(Permission.READ),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        groups: NamedDependency[GroupService],
        caller: NamedDependency[Caller],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        consumer: Annotated[
            str | None, QueryParameter(max_length=64, description="Id or name of the consumer.")
        ] = None,
        name: Annotated[
            str | None, QueryParameter(max_length=64, description="Only groups of this name.")
        ] = None,
        occupied: Annotated[
            bool | None,
            QueryParameter(description="Only such with members, or without. Absent: both."),
        ] = None,
    ) -> Page[GroupOut]:
        """One for each subscription that is not closed, with its members as they were last seen.

        In the order in which the subscriptions were made; for a consumer, its own.
        """
        return await groups.page(
            cursor=cursor,
            limit=limit,
            sort=sort,
            consumer=consumer,
            name=name,
            occupied=occupied,
            only=caller.consumer,
        )

    @get(
        "/{key:str}",
        operation_id="getGroup",
        summary="Describe a group",
        opt=needs(Permission.READ),
        responses=responses(400, 404, 503),
    )
    async def read(
        self,
        key: Annotated[str, PathParameter(max_length=64, description="Id of the subscription.")],
        groups: NamedDependency[GroupService],
        caller: NamedDependency[Caller],
    ) -> GroupDetailOut:
        """The members of a subscription as of now: what each reads, how fast, and who has left."""
        return await groups.describe(key, only=caller.consumer)
