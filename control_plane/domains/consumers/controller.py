"""Routes of consumers."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from control_plane.domains.consumers.repository import LISTING
from control_plane.domains.consumers.schemas import ConsumerCreate, ConsumerOut, ConsumerUpdate
from control_plane.domains.consumers.service import ConsumerService
from control_plane.idempotency.middleware import Repeatable
from control_plane.listing import Labels
from control_plane.pages import DEFAULT_LIMIT, Cursor, IfMatch, Limit, Page, etag
from control_plane.problems import responses
from control_plane.security.callers import Caller
from control_plane.security.permissions import Permission, needs

Key = Annotated[str, PathParameter(max_length=64, description="Id or name of the consumer.")]


class ConsumerController(Controller):
    """Who receives events."""

    path = "/consumers"
    tags = ("consumers",)

    @post(
        "/",
        operation_id="createConsumer",
        operation_class=Repeatable,
        summary="Register a consumer",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 409, 413, 422, 503),
    )
    async def create(
        self, data: JSONBody[ConsumerCreate], consumers: NamedDependency[ConsumerService]
    ) -> Response[ConsumerOut]:
        """Register a consumer; its name is free again once it is deleted.

        `entitlements` bound what it can ever receive: they are joined by AND with every filter of
        its subscriptions.
        """
        created, version = await consumers.create(data)
        headers = {"ETag": etag(version), "Location": f"/v1/consumers/{created.id}"}
        return Response(created, headers=headers)

    @get(
        "/",
        operation_id="listConsumers",
        summary="List consumers",
        opt=needs(Permission.READ),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        consumers: NamedDependency[ConsumerService],
        caller: NamedDependency[Caller],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        name: Annotated[str | None, QueryParameter(max_length=64)] = None,
        region: Annotated[str | None, QueryParameter(max_length=64)] = None,
        workflow: Annotated[str | None, QueryParameter(max_length=64)] = None,
        suspended: Annotated[bool | None, QueryParameter(description="Absent: both.")] = None,
        labels: Labels = None,
    ) -> Page[ConsumerOut]:
        """Consumers in the order of their registration; for a consumer, itself."""
        return await consumers.page(
            cursor=cursor,
            limit=limit,
            sort=sort,
            name=name,
            region=region,
            workflow=workflow,
            suspended=suspended,
            labels=labels,
            only=caller.consumer,
        )

    @get(
        "/{key:str}",
        operation_id="getConsumer",
        summary="Describe a consumer",
        opt=needs(Permission.READ),
        responses=responses(400, 404, 503),
    )
    async def read(
        self,
        key: Key,
        consumers: NamedDependency[ConsumerService],
        caller: NamedDependency[Caller],
    ) -> Response[ConsumerOut]:
        """One consumer by its id or name."""
        found, version = await consumers.get(key, only=caller.consumer)
        return Response(found, headers={"ETag": etag(version)})

    @patch(
        "/{key:str}",
        operation_id="updateConsumer",
        operation_class=Repeatable,
        summary="Change a consumer",
        opt=needs(Permission.SUBSCRIBE),
        responses=responses(400, 404, 409, 412, 413, 422, 503),
    )
    async def update(
        self,
        key: Key,
        data: JSONBody[ConsumerUpdate],
        consumers: NamedDependency[ConsumerService],
        caller: NamedDependency[Caller],
        if_match: IfMatch = None,
    ) -> Response[ConsumerOut]:
        """Change the fields given; the others stay, and so do the bounds of `entitlements`.

        Other entitlements hold for all subscriptions of the consumer from one plan on, as soon as
        the broker has their topics. A subscription for which they make a difference has another
        topic from then on: ask for it again. While it is `pending` the old entitlements hold.

        `suspended` is the same for a while: nothing is received, and what was not read is lost.

        A consumer can change none of `owner`, `entitlements` and `suspended` of its own.
        """
        changed, version = await consumers.update(key, data, if_match, only=caller.consumer)
        return Response(changed, headers={"ETag": etag(version)})

    @delete(
        "/{key:str}",
        operation_id="deleteConsumer",
        summary="Delete a consumer",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 503),
    )
    async def remove(
        self,
        key: Key,
        consumers: NamedDependency[ConsumerService],
        caller: NamedDependency[Caller],
        if_match: IfMatch = None,
    ) -> None:
        """Delete a consumer that has no live subscriptions; its tokens are revoked."""
        await consumers.delete(key, if_match, by=caller.subject)
