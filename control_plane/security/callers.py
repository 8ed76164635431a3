"""Who sent a request: known to routes as `caller`, and to every log line by subject and role."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from control_plane.errors import DatabaseUnavailableError, ForbiddenError
from control_plane.security.permissions import Permission, allowed, declared
from control_plane.security.roles import Role
from control_plane.security.tokens import Claims

STATE_KEY = "caller"
REFUSED_KEY = "refused"
"""Why a request was not authenticated, in its state."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, in which role; `claims` is None where authentication is off.

    `certain` is False when it could not be found out whether the token was revoked.
    """

    subject: str
    role: Role
    claims: Claims | None = None
    certain: bool = True

    @property
    def consumer(self) -> str | None:
        """The id of the only consumer of which the caller may know; None when of all."""
        return self.subject if self.role is Role.CONSUMER else None

    @property
    def only_subject(self) -> str | None:
        """The only subject of whose tokens the caller may know; None when of all."""
        return None if self.role is Role.PLATFORM else self.subject


ANYBODY = Caller("anybody", Role.PLATFORM)
"""The caller of every request where authentication is off."""


def caller_of(request: Request[Any, Any, Any]) -> Caller:
    """The caller of a request, for routes."""
    caller = request.scope["state"][STATE_KEY]
    if not isinstance(caller, Caller):
        raise TypeError("the request was not authenticated")
    return caller


def require_permission(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """The guard of every route: ForbiddenError unless the caller's role has its permission."""
    if connection.scope.get("method") == "OPTIONS":
        return  # made by the framework: says which methods a path has
    permission = declared(handler.opt)
    if permission is Permission.PUBLIC:
        return
    caller: Caller | None = connection.scope["state"].get(STATE_KEY)
    if caller is None or not allowed(caller.role, permission):
        log.warning("request forbidden", permission=permission)
        raise ForbiddenError
    if not caller.certain and permission is not Permission.METRICS:
        raise DatabaseUnavailableError("PostgreSQL does not answer.")
