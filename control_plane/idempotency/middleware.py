"""The middleware: a repeated request gets the answer to the first and is not carried out again.

It stands between authentication and the router, so that keys are the caller's own. The key is
claimed in the first transaction of the request that may change something, which is that of the
change; what rolls back leaves no key, and is tried anew. Answers of 500 and above are never kept,
nor those of routes that are not `Repeatable`: they may hold secrets.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from litestar import Request
from litestar.enums import ScopeType
from litestar.openapi.spec import Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.types import ASGIApp, HTTPReceiveMessage, HTTPScope, Message, Receive, Scope, Send
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database, at_begin
from control_plane.errors import (
    ControlPlaneError,
    DatabaseUnavailableError,
    FieldProblem,
    InvalidRequestError,
    KeyInUseError,
    KeyReusedError,
    UnavailableError,
)
from control_plane.idempotency import keys
from control_plane.idempotency.keys import Answer, Claim
from control_plane.problems import domain_problem
from control_plane.security.callers import STATE_KEY, Caller

HEADER = "Idempotency-Key"
REPLAYED = (b"idempotency-replayed", b"true")
LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1.0
"""How long a repeated request pauses between looks for an answer: each pause is twice the last."""
MOST_WAITING = 16
"""Requests of a process that wait for the answer to another: looks take database connections."""
_METHODS = frozenset({"POST", "PATCH"})
_KEY = re.compile(r"[\x21-\x7e]{1,255}")

log = structlog.get_logger(__name__)


@dataclass
class Repeatable(Operation):
    """A route's OpenAPI operation that says it takes the header."""

    def __post_init__(self) -> None:
        """Add the parameter."""
        parameter = Parameter(
            name=HEADER,
            param_in="header",
            required=False,
            schema=Schema(type=OpenAPIType.STRING, pattern="^[!-~]{1,255}$", max_length=255),
            description=(
                "Anything unique to this request, such as a UUID. For 24 hours the same request"
                " with the same key gets the same answer (`Idempotency-Replayed: true`) and is not"
                " carried out again; another request with it is refused (422)."
            ),
        )
        self.parameters = [*(self.parameters or ()), parameter]


def idempotency_middleware(
    database: Database, *, max_body_bytes: int, wait_seconds: float
) -> Callable[[ASGIApp], ASGIApp]:
    """The middleware.

    Args:
        max_body_bytes: bodies beyond this are left to the router. It refuses them, but for many
            rows of a reference table: to put them in their place once more changes nothing.
        wait_seconds: how long a repeated request waits for the answer to the first.
    """
    under_way = _UnderWay()

    def wrap(app: ASGIApp) -> ASGIApp:
        async def handle(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP or scope["method"] not in _METHODS:
                await app(scope, receive, send)
                return
            given = [value for name, value in scope["headers"] if name == HEADER.lower().encode()]
            if not given:
                await app(scope, receive, send)
                return
            body, receive = await _read(receive, max_body_bytes)
            if body is None:
                await app(scope, receive, send)
                return
            try:
                claim = _claim(scope, given, body)

                async def attempt() -> Answer | str:
                    return await _attempt(app, scope, body, claim, database, under_way)

                answer = await _answered(attempt, claim, under_way, wait_seconds)
            except ControlPlaneError as error:
                request: Request[Any, Any, Any] = Request(scope, receive, send)
                problem = domain_problem(request, error)
                await problem.to_asgi_response(app=None, request=request)(scope, receive, send)
                return
            await send(
                {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
            )
            await send({"type": "http.response.body", "body": answer.body, "more_body": False})

        return handle

    return wrap


class _UnderWay:
    """What a process is about, by caller and key."""

    def __init__(self) -> None:
        self.carried_out: dict[tuple[str, str], str] = {}
        """With the id of the request."""
        self.waiting: set[tuple[str, str]] = set()


async def _answered(
    attempt: Callable[[], Awaitable[Answer | str]],
    claim: Claim,
    under_way: _UnderWay,
    wait_seconds: float,
) -> Answer:
    """The answer to a request; one repetition of each waits for it, and not all at once.

    Raises:
        KeyInUseError: the first request has no answer yet.
    """
    until = time.monotonic() + wait_seconds
    found = await attempt()
    if isinstance(found, Answer):
        return found
    place = claim.caller, claim.key
    if place in under_way.waiting or len(under_way.waiting) >= MOST_WAITING:
        raise KeyInUseError(found)
    under_way.waiting.add(place)
    pause = LOOK_SECONDS
    try:
        while time.monotonic() < until:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_LOOK_SECONDS)
            found = await attempt()
            if isinstance(found, Answer):
                return found
    finally:
        under_way.waiting.remove(place)
    raise KeyInUseError(found)


async def _attempt(
    app: ASGIApp,
    scope: HTTPScope,
    body: bytes,
    claim: Claim,
    database: Database,
    under_way: _UnderWay,
) -> Answer | str:
    """The answer to a request, or the id of the first one where that has no answer yet.

    Raises:
        KeyReusedError: the key is another request's.
        DatabaseUnavailableError: nothing is known of the key.
    """
    place = claim.caller, claim.key
    while True:
        async with database.transaction() as session:
            row = await keys.find(session, claim.caller, claim.key)
        if row is None:
            if place in under_way.carried_out:
                return under_way.carried_out[place]
            under_way.carried_out[place] = claim.request_id
            try:
                answer = await _carry_out(app, scope, body, claim, database)
            finally:
                del under_way.carried_out[place]
            if answer is not None:
                return answer
            claim.taken = False
            continue
        if row.fingerprint != claim.fingerprint:
            raise KeyReusedError(HEADER)
        stored = keys.stored_answer(row)
        if stored is not None:
            return Answer(stored.status, [*stored.headers, REPLAYED], stored.body)
        return row.request_id


async def _carry_out(
    app: ASGIApp, scope: HTTPScope, body: bytes, claim: Claim, database: Database
) -> Answer | None:
    """The answer to a request; None when somebody else had the key meanwhile."""
    status = 500
    headers: list[tuple[bytes, bytes]] = []
    parts: list[bytes] = []

    async def receive() -> HTTPReceiveMessage:
        return {"type": "http.request", "body": body, "more_body": False}

    async def gather(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status, headers = message["status"], list(message["headers"])
        elif message["type"] == "http.response.body":
            parts.append(message["body"])

    async def claim_key(session: AsyncSession) -> None:
        # Known only now that the request has been routed.
        told = getattr(scope.get("route_handler"), "operation_class", Operation)
        if not issubclass(told, Repeatable):
            raise _refused("this route does not take it; a repetition is a request of its own")
        await claim.make(session)

    with at_begin(claim_key):
        await app(scope, receive, gather)
    if claim.taken:
        return None
    answer = Answer(status, headers, b"".join(parts))
    if claim.committed and status < 500:
        try:
            async with database.transaction() as session:
                await keys.store(session, claim, answer)
        except UnavailableError as error:
            log.warning("answer not kept", key=claim.key, error=str(error))
    return answer


def _claim(scope: HTTPScope, given: list[bytes], body: bytes) -> Claim:
    key = given[0].decode("latin-1")
    if len(given) > 1 or _KEY.fullmatch(key) is None:
        raise _refused("send one, of 1 to 255 printable ASCII characters")
    caller: Caller = scope["state"][STATE_KEY]
    if not caller.certain:  # a stored answer passes no guard
        raise DatabaseUnavailableError("PostgreSQL does not answer.")
    condition = [value for name, value in scope["headers"] if name == b"if-match"]
    digest = hashlib.sha256()
    parts = (scope["method"].encode(), scope["path"].encode(), scope["query_string"], *condition)
    for part in (*parts, body):
        digest.update(b"%d:%b" % (len(part), part))
    return Claim(
        caller=f"{caller.role}:{caller.subject}",
        key=key,
        fingerprint=digest.digest(),
        request_id=str(scope["state"].get("request_id", "")),
    )


def _refused(detail: str) -> InvalidRequestError:
    return InvalidRequestError("The key is not usable.", [FieldProblem(f"header:{HEADER}", detail)])


async def _read(receive: Receive, most: int) -> tuple[bytes | None, Receive]:
    """The body, and a `receive` that gives it again; None for one that is too large or broken."""
    parts = bytearray()
    gone: list[HTTPReceiveMessage] = []
    more = True
    while more and not gone and len(parts) <= most:
        message = cast(HTTPReceiveMessage, await receive())
        if message["type"] == "http.disconnect":
            gone.append(message)
        else:
            parts += message.get("body", b"")
            more = message.get("more_body", False)
    body = bytes(parts)
    read: list[HTTPReceiveMessage] = [
        {"type": "http.request", "body": body, "more_body": more},
        *gone,
    ]

    async def again() -> HTTPReceiveMessage:
        return read.pop(0) if read else cast(HTTPReceiveMessage, await receive())

    return (None if more or len(body) > most else body), again
