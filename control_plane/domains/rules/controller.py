"""Routes of routing rules."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter

from control_plane.domains.rules.schemas import (
    RuleCreate,
    RuleOrder,
    RuleOut,
    RulesOut,
    RuleUpdate,
)
from control_plane.domains.rules.service import RuleService
from control_plane.idempotency.middleware import Repeatable
from control_plane.pages import DEFAULT_LIMIT, Cursor, IfMatch, Limit, Page, etag
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs

Key = Annotated[str, PathParameter(max_length=64, description="Id or name of the rule.")]


class RuleController(Controller):
    """Which events may go to which consumers: the first rule that matches decides."""

    path = "/rules"
    tags = ("rules",)

    @post(
        "/",
        operation_id="createRule",
        operation_class=Repeatable,
        summary="Make a routing rule",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 409, 413, 422, 503),
    )
    async def create(
        self, data: JSONBody[RuleCreate], rules: NamedDependency[RuleService]
    ) -> Response[RuleOut]:
        """Make a rule. The subscriptions for which it makes a difference follow from one plan on.

        They have another topic from then on, as after a change of entitlements.
        """
        made, version = await rules.create(data)
        headers = {"ETag": etag(version), "Location": f"/v1/rules/{made.id}"}
        return Response(made, headers=headers)

    @get(
        "/",
        operation_id="listRules",
        summary="List routing rules",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        rules: NamedDependency[RuleService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Response[Page[RuleOut]]:
        """Rules in the order in which they decide; the ETag is that of the order of all."""
        page, version = await rules.page(cursor=cursor, limit=limit)
        return Response(page, headers={"ETag": etag(version)})

    @get(
        "/{key:str}",
        operation_id="getRule",
        summary="Describe a routing rule",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def read(self, key: Key, rules: NamedDependency[RuleService]) -> Response[RuleOut]:
        """One rule by its id or name."""
        found, version = await rules.get(key)
        return Response(found, headers={"ETag": etag(version)})

    @patch(
        "/{key:str}",
        operation_id="updateRule",
        operation_class=Repeatable,
        summary="Change a routing rule",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 413, 422, 503),
    )
    async def update(
        self,
        key: Key,
        data: JSONBody[RuleUpdate],
        rules: NamedDependency[RuleService],
        if_match: IfMatch = None,
    ) -> Response[RuleOut]:
        """Change, enable, disable or move a rule; the answer names the plan from which that holds.

        A rule that others make room for stays what it is, and keeps its ETag.
        """
        changed, version = await rules.update(key, data, if_match)
        return Response(changed, headers={"ETag": etag(version)})

    @delete(
        "/{key:str}",
        operation_id="deleteRule",
        summary="Delete a routing rule",
        opt=needs(Permission.OPERATE),
        responses=responses(400, 404, 409, 412, 422, 503),
    )
    async def remove(
        self, key: Key, rules: NamedDependency[RuleService], if_match: IfMatch = None
    ) -> None:
        """Delete a rule; what only it denied is delivered from the next plan on."""
        await rules.delete(key, if_match)


class RuleOrderController(Controller):
    """The order of all routing rules."""

    path = "/rules:reorder"
    tags = ("rules",)

    @post(
        "/",
        operation_id="reorderRules",
        operation_class=Repeatable,
        summary="Order all routing rules",
        status_code=200,
        opt=needs(Permission.OPERATE),
        responses=responses(400, 409, 412, 413, 422, 503),
    )
    async def reorder(
        self,
        data: JSONBody[RuleOrder],
        rules: NamedDependency[RuleService],
        if_match: IfMatch = None,
    ) -> Response[RulesOut]:
        """Give all rules another order at once, by one plan.

        Every rule has to be named: an order that somebody made without knowing of a new rule is
        refused. With the ETag of the list in If-Match so is one that was made before another was.
        """
        ordered, version = await rules.order(data, if_match)
        return Response(ordered, headers={"ETag": etag(version)})
