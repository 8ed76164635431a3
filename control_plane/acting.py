"""Who acts: told to PostgreSQL at the beginning of each transaction that may change something.

Triggers write the audit log, in the transaction of the change; what they cannot know, who asked and
from where, they read from the setting `dds.acting`. A transaction in which nobody is said to act is
somebody's at the database itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import at_begin
from control_plane.security.callers import REFUSED_KEY, STATE_KEY, Caller

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
REFUSED_STATUSES = frozenset({401, 403})
MAX_TEXT = 200
_TOKEN = re.compile(r"[\w-]{10,}\.[\w-]{10,}\.[\w-]*")

_SIGN = text("SELECT set_config('dds.acting', :actor, true)")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and for which request; texts that do not apply are empty."""

    actor: str
    role: str = ""
    token_id: str = ""
    operation: str = ""
    request_id: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that was not allowed: `actor` is nobody for those without a token that holds."""

    actor: Actor
    status: int
    reason: str
    path: str


NOBODY = "unauthenticated"
"""The actor of requests without a token that holds."""


def component(name: str) -> Actor:
    """A part of the control plane that acts by itself."""
    return Actor("control-plane", operation=name)


@contextmanager
def acting(who: Callable[[], Actor]) -> Iterator[None]:
    """Have every transaction of this context, and of tasks made in it, say who acts."""

    async def sign(session: AsyncSession) -> None:
        await session.execute(_SIGN, {"actor": msgspec.json.encode(who()).decode()})

    with at_begin(sign):
        yield


def acting_middleware(on_refused: Callable[[Refusal], None]) -> Callable[[ASGIApp], ASGIApp]:
    """The middleware that tells who acts in requests; `on_refused` gets each 401 and 403."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return

            async def watch(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    if status in REFUSED_STATUSES:
                        reason = str(scope["state"].get(REFUSED_KEY, ""))
                        on_refused(Refusal(actor_of(scope), status, reason, _path(scope)))
                await send(message)

            if scope["method"] in SAFE_METHODS:
                await app(scope, receive, watch)
                return
            with acting(lambda: actor_of(scope)):
                await app(scope, receive, watch)

        return handle

    return wrap


def actor_of(scope: HTTPScope) -> Actor:
    """Who sent a request, as far as is known by now."""
    state = scope.get("state", {})
    caller: Caller | None = state.get(STATE_KEY)
    handler = scope.get("route_handler")
    operation = getattr(handler, "operation_id", None)
    client = scope.get("client")
    return Actor(
        actor=caller.subject if caller else NOBODY,
        role=caller.role.value if caller else "",
        token_id=_plain(caller.claims.token_id) if caller and caller.claims else "",
        operation=operation if isinstance(operation, str) else "",
        request_id=str(state.get("request_id", "")),
        address=_plain(client[0]) if client else "",
    )


def _path(scope: HTTPScope) -> str:
    return _plain(f"{scope['method']} {scope['path']}")


def _plain(value: str) -> str:
    """What a stranger sent, as it may be stored: short, printable, nothing like a token in it."""
    # PostgreSQL text holds neither U+0000 nor lone surrogates.
    printable = "".join(each if each.isprintable() else "?" for each in value[: 4 * MAX_TEXT])
    return _TOKEN.sub("…", printable)[:MAX_TEXT]
