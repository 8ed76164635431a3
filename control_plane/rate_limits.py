"""Rate limits: each caller has a bucket of requests that fills steadily.

A caller is the subject of a token; without one that holds, or where authentication is off, it is
the address. Each control plane counts for itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from litestar import Request
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from control_plane.errors import RateLimitedError
from control_plane.problems import domain_problem
from control_plane.security.callers import STATE_KEY, Caller

MOST_CALLERS = 10_000
"""Remembered at once; those with full buckets are forgotten first."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a caller has left: whole requests, and seconds until its bucket is full again.

    `retry_after_seconds` is None when the request was within the limit.
    """

    remaining: int
    reset_seconds: float
    retry_after_seconds: float | None = None


class RateLimiter:
    """Buckets of `burst` requests that fill by `per_second`.

    Of each bucket only the time is kept at which it is full again.
    """

    def __init__(
        self, per_second: float, burst: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds_each = 1 / per_second
        self.burst = burst
        self._monotonic = monotonic
        self._full_at: dict[str, float] = {}

    def take(self, caller: str) -> Standing:
        """Take one request out of a caller's bucket, if there is one in it."""
        now = self._monotonic()
        until_full = max(0.0, self._full_at.get(caller, now) - now)
        # How long it takes to fill a bucket that has less than one request in it.
        over = until_full - (self.burst - 1) * self._seconds_each
        if over > 1e-9:
            return Standing(0, until_full, over)
        until_full += self._seconds_each
        self._full_at[caller] = now + until_full
        if len(self._full_at) > MOST_CALLERS:
            self._forget(now)
        return Standing(self.burst - math.ceil(until_full / self._seconds_each - 1e-6), until_full)

    def _forget(self, now: float) -> None:
        """Forget who has a full bucket, and the half that is nearest to it where that is few."""
        self._full_at = {caller: at for caller, at in self._full_at.items() if at > now}
        if len(self._full_at) > MOST_CALLERS // 2:
            emptiest = sorted(self._full_at.items(), key=lambda item: item[1])
            self._full_at = dict(emptiest[-(MOST_CALLERS // 2) :])


def rate_limit_middleware(
    limiter: RateLimiter, *, exempt: frozenset[str]
) -> Callable[[ASGIApp], ASGIApp]:
    """The middleware; paths in `exempt` are never limited."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP or scope["path"] in exempt:
                await app(scope, receive, send)
                return
            standing = limiter.take(_caller(scope))
            told = [
                (b"ratelimit-limit", b"%d" % limiter.burst),
                (b"ratelimit-remaining", b"%d" % standing.remaining),
                (b"ratelimit-reset", b"%d" % math.ceil(standing.reset_seconds)),
            ]

            async def send_standing(message: Message) -> None:
                if message["type"] == "http.response.start":
                    message["headers"] = [*message["headers"], *told]
                await send(message)

            if standing.retry_after_seconds is None:
                await app(scope, receive, send_standing)
                return
            request: Request[Any, Any, Any] = Request(scope, receive, send)
            error = RateLimitedError(math.ceil(standing.retry_after_seconds))
            answer = domain_problem(request, error).to_asgi_response(app=None, request=request)
            await answer(scope, receive, send_standing)

        return handle

    return wrap


def _caller(scope: Scope) -> str:
    caller: Caller | None = scope.get("state", {}).get(STATE_KEY)
    if caller is not None and caller.claims is not None:
        return f"{caller.role}:{caller.subject}"
    client = scope.get("client")
    return f"address:{client[0] if client else ''}"
