"""Authentication: every request but those for public routes carries a bearer token that holds.

It stands before the router: without a token nobody learns which paths exist. Refusals look alike to
the caller; why is counted and logged beside the request id, never with the token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from litestar import Litestar, Request
from litestar.enums import ScopeType
from litestar.routes import HTTPRoute
from litestar.types import ASGIApp, Receive, Scope, Send

from control_plane.errors import UnauthenticatedError
from control_plane.problems import domain_problem
from control_plane.security.callers import ANYBODY, REFUSED_KEY, STATE_KEY, Caller
from control_plane.security.external import ExternalIssuer
from control_plane.security.permissions import Permission, declared
from control_plane.security.revocation import Revocations
from control_plane.security.tokens import Claims, KeyRing, Reason, TokenRefused

_HEADER = b"authorization"
_SCHEME = "bearer "

log = structlog.get_logger(__name__)


Authenticate = Callable[[Scope], Awaitable[Caller]]
"""Tells who sent a request; TokenRefused when nobody who is known here did."""


StillAllowed = Callable[[Caller], Awaitable[bool]]
"""Whether a caller who was admitted would be admitted now."""


async def still_anybody(_caller: Caller) -> bool:
    """Authentication that is off."""
    return True


async def admit_anybody(_scope: Scope) -> Caller:
    """Authentication that is off."""
    return ANYBODY


class Authenticator:
    """Bearer tokens of the control plane, and of one external issuer where there is one."""

    def __init__(
        self, ring: KeyRing, revocations: Revocations, external: ExternalIssuer | None
    ) -> None:
        self._ring = ring
        self._revocations = revocations
        self._external = external

    async def __call__(self, scope: Scope) -> Caller:
        """The caller as the token says."""
        claims = await self._verify(_bearer(scope))
        revoked, certain = await self._revocations.current()
        if revoked.covers(claims.token_id, claims.subject, claims.issued_at):
            raise TokenRefused(Reason.REVOKED)
        return Caller(claims.subject, claims.role, claims, certain=certain)

    async def still_allowed(self, caller: Caller) -> bool:
        """Whether the token that a caller came with still holds, as far as that is certain."""
        claims = caller.claims
        if claims is None or claims.expires_at <= datetime.now(UTC):
            return False
        revoked, certain = await self._revocations.current()
        return certain and not revoked.covers(claims.token_id, claims.subject, claims.issued_at)

    async def _verify(self, token: str) -> Claims:
        try:
            return self._ring.verify(token)
        except TokenRefused as refused:
            if self._external is None or refused.reason is not Reason.UNKNOWN_KEY:
                raise
        return await self._external.verify(token)


def public_paths(app: Litestar) -> frozenset[str]:
    """The paths of which every method is declared to be public."""
    return frozenset(
        route.path
        for route in app.routes
        if isinstance(route, HTTPRoute)
        and {
            declared(handler.opt)
            for handler in route.route_handlers
            if handler.http_methods != {"OPTIONS"}
        }
        == {Permission.PUBLIC}
    )


def authentication_middleware(
    authenticate: Authenticate,
    *,
    public: frozenset[str],
    on_refused: Callable[[Reason], None],
    limited: Callable[[ASGIApp], ASGIApp],
) -> Callable[[ASGIApp], ASGIApp]:
    """The middleware; `on_refused` gets the reason of every refusal.

    `limited` is put round what answers, refusals too: it knows who calls, if anybody is known.
    """
    refuse = limited(_refuse)

    def wrap(app: ASGIApp) -> ASGIApp:
        serve = limited(app)

        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            state = scope.setdefault("state", {})
            if scope["type"] == ScopeType.HTTP and scope["path"] in public:
                await app(scope, receive, send)
                return
            try:
                caller = await authenticate(scope)
            except TokenRefused as refused:
                on_refused(refused.reason)
                state[REFUSED_KEY] = refused.reason
                log.warning("request not authenticated", reason=refused.reason.value)
                await refuse(scope, receive, send)
                return
            state[STATE_KEY] = caller
            with structlog.contextvars.bound_contextvars(
                caller=caller.subject, role=caller.role.value
            ):
                await serve(scope, receive, send)

        return handle

    return wrap


def _bearer(scope: Scope) -> str:
    values = [value for name, value in scope["headers"] if name == _HEADER]
    if not values:
        raise TokenRefused(Reason.MISSING)
    value = values[0].decode("latin-1")
    if len(values) > 1 or not value.lower().startswith(_SCHEME):
        raise TokenRefused(Reason.MALFORMED)
    return value[len(_SCHEME) :].strip()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != ScopeType.HTTP:
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    request: Request[Any, Any, Any] = Request(scope, receive, send)
    reason = scope["state"][REFUSED_KEY]
    error = UnauthenticatedError(token_given=reason is not Reason.MISSING)
    answer = domain_problem(request, error).to_asgi_response(app=None, request=request)
    await answer(scope, receive, send)
