"""What happens around every request: its id, its log line, its metrics.

The id comes in as `X-Request-ID` or is made here, goes out in the same header, is bound to every
log line and becomes the correlation id of a plan that the request causes.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

import structlog
from litestar import Request
from litestar.enums import ScopeType
from litestar.exceptions import ClientException
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

HEADER = b"x-request-id"


class BodyRequest(Request[Any, Any, Any]):
    """A request whose body may be anything: what cannot be read as JSON is the sender's mistake."""

    async def json(self) -> Any:
        """The body as JSON; ClientException for text that is no UTF-8, or nested without end."""
        try:
            return await super().json()
        except (UnicodeDecodeError, RecursionError) as error:
            raise ClientException("The body cannot be read as JSON.") from error


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
            # Nothing of the request before it on its connection: uvicorn reads on in the context of
            # a request whose body it had paused, and what comes next would begin in that one.
            serving = serve(scope, receive, send)
            await asyncio.get_running_loop().create_task(serving, context=Context())

        async def serve(scope: HTTPScope, receive: Receive, send: Send) -> None:
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
