"""What each role may do. A route declares the one permission that it needs; without, it is refused.

A permission says what a caller may ask for. Of which consumer is another question, and answered by
`Caller.consumer`: routes hand it to the services, which then know nothing of anybody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from control_plane.security.roles import Role

_OPTION = "permission"


class Permission(StrEnum):
    """What a route may need."""

    PUBLIC = "public"
    """Answered without a token."""
    METRICS = "metrics"
    """Read metrics; the only thing that is answered while revocations cannot be read."""
    OBSERVE = "observe"
    """Read what the platform team sees: plans, functions, order of the sources, dead letters."""
    OPERATE = "operate"
    """Change what is everybody's: register and delete consumers, sets, resends."""
    DESCRIBE = "describe"
    """Read what every caller needs to make a request: this API's description, instrument sets."""
    READ = "read"
    """Read consumers and subscriptions."""
    SUBSCRIBE = "subscribe"
    """Make, change and close subscriptions, and change a consumer."""
    TOKENS = "tokens"
    """Renew, list and revoke tokens; others' and first ones are the platform team's."""


ROLES: Mapping[Permission, frozenset[Role]] = {
    Permission.METRICS: frozenset({Role.PLATFORM, Role.READ_ONLY}),
    Permission.OBSERVE: frozenset({Role.PLATFORM, Role.READ_ONLY}),
    Permission.OPERATE: frozenset({Role.PLATFORM}),
    Permission.DESCRIBE: frozenset({Role.PLATFORM, Role.READ_ONLY, Role.PUBLISHER, Role.CONSUMER}),
    Permission.READ: frozenset({Role.PLATFORM, Role.READ_ONLY, Role.CONSUMER}),
    Permission.SUBSCRIBE: frozenset({Role.PLATFORM, Role.CONSUMER}),
    Permission.TOKENS: frozenset({Role.PLATFORM, Role.READ_ONLY, Role.PUBLISHER, Role.CONSUMER}),
}


def needs(permission: Permission) -> dict[str, Any]:
    """The option of a route that declares what it needs: `@get(…, opt=needs(Permission.READ))`."""
    return {_OPTION: permission}


def declared(options: Mapping[str, Any]) -> Permission | None:
    """The permission that a route's options declare."""
    found = options.get(_OPTION)
    return found if isinstance(found, Permission) else None


def allowed(role: Role, permission: Permission | None) -> bool:
    """Whether a role may use a route that declares this; nobody may where nothing is declared."""
    return permission is not None and role in ROLES.get(permission, frozenset())
