"""What happens around every request: its id, its log line, its metrics.

The id comes in as `X-Request-ID` or is made here, goes out in the same header, is bound to every
log line and becomes the correlation id of a plan that the request causes.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable

import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

HEADER = b"x-request-id"
_ACCEPTED = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

log = structlog.get_logger(__name__)

ObserveRequest = Callable[[str, str, int, float], None]
"""Called with method, route template, status and seconds."""


def new_request_id() -> str:
    """An id for a request that came without one (or with one that is not printable)."""
    return secrets.token_hex(16)


def request_middleware(observe: ObserveRequest) -> Callable[[ASGIApp], ASGIApp]:
    """The middleware; `observe` gets the figures of every finished request."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            given = dict(scope["headers"]).get(HEADER, b"").decode("latin-1")
            request_id = given if _ACCEPTED.fullmatch(given) else new_request_id()
            scope.setdefault("state", {})["request_id"] = request_id
            started = time.perf_counter()
            status = 500

            async def send_with_id(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    message["headers"] = [
                        *message["headers"],
                        (HEADER, request_id.encode("latin-1")),
                    ]
                await send(message)

            with structlog.contextvars.bound_contextvars(request_id=request_id):
                try:
                    await app(scope, receive, send_with_id)
                finally:
                    seconds = time.perf_counter() - started
                    route = str(scope.get("path_template") or "unmatched")
                    observe(scope["method"], route, status, seconds)
                    log.info(
                        "request",
                        method=scope["method"],
                        path=scope["path"],
                        status=status,
                        duration_ms=round(seconds * 1e3, 2),
                    )

        return handle

    return wrap


def current_request_id() -> str:
    """The id of the request being served; "" outside one."""
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))
