"""Routes of tokens."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from control_plane.domains.tokens.repository import LISTING
from control_plane.domains.tokens.schemas import (
    RevokedOut,
    RevokeRequest,
    TokenCreate,
    TokenMade,
    TokenOut,
)
from control_plane.domains.tokens.service import TokenService
from control_plane.idempotency.middleware import Repeatable
from control_plane.pages import DEFAULT_LIMIT, Cursor, Limit, Page
from control_plane.problems import responses
from control_plane.security.callers import Caller
from control_plane.security.permissions import Permission, needs

Key = Annotated[
    str, PathParameter(pattern="^[0-9a-f]{32}$", description="Id (`jti`) of the token.")
]


class TokenController(Controller):
    """Who may call, and the broker's clients."""

    path = "/tokens"
    tags = ("tokens",)
    opt = needs(Permission.TOKENS)

    @post(
        "/",
        operation_id="createToken",
        summary="Issue or renew a token",
        responses=responses(400, 404, 409, 413, 422),
    )
    async def create(
        self,
        data: JSONBody[TokenCreate],
        tokens: NamedDependency[TokenService],
        caller: NamedDependency[Caller],
    ) -> Response[TokenMade]:
        """Issue a token for a consumer, or for somebody in a role: the platform team.

        Renew your own, while it is valid: everybody, with `{}`. The old one stays valid to its end.
        """
        made = await tokens.create(data, caller)
        return Response(made, headers={"Cache-Control": "no-store"})

    @get(
        "/",
        operation_id="listTokens",
        summary="List tokens",
        responses=responses(400, 422),
    )
    async def list_(
        self,
        tokens: NamedDependency[TokenService],
        caller: NamedDependency[Caller],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        subject: Annotated[
            str | None, QueryParameter(max_length=64, description="Only of this subject.")
        ] = None,
        issued_by: Annotated[
            str | None, QueryParameter(max_length=64, description="Only by this caller.")
        ] = None,
    ) -> Page[TokenOut]:
        """Tokens issued here that have not expired, in the order of their issue.

        All of them for the platform team, its own for everybody else.
        """
        return await tokens.page(
            cursor=cursor,
            limit=limit,
            sort=sort,
            subject=subject,
            issued_by=issued_by,
            caller=caller,
        )

    @delete(
        "/{key:str}",
        operation_id="revokeToken",
        summary="Revoke a token",
        responses=responses(400, 404),
    )
    async def remove(
        self, key: Key, tokens: NamedDependency[TokenService], caller: NamedDependency[Caller]
    ) -> None:
        """Revoke a token and all that were renewed from it, everywhere within seconds."""
        await tokens.revoke(key, caller)

    @post(
        "/revoke",
        operation_id="revokeTokens",
        operation_class=Repeatable,
        summary="Revoke all tokens of somebody",
        status_code=200,
        responses=responses(400, 404, 409, 413, 422),
    )
    async def revoke(
        self,
        data: JSONBody[RevokeRequest],
        tokens: NamedDependency[TokenService],
        caller: NamedDependency[Caller],
    ) -> RevokedOut:
        """Revoke every token of a subject that was issued up to now, everywhere within seconds."""
        return await tokens.revoke_all(data, caller)
