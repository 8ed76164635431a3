"""The route of events."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import ServerSentEvent
from litestar.types import ASGIApp, Receive, Scope, Send

from control_plane.database import Database
from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.events.feed import EventFeed, Selection
from control_plane.domains.events.schemas import EventOut, EventType, LostOut
from control_plane.domains.subscriptions import repository as subscription_rows
from control_plane.errors import FieldProblem, InvalidRequestError
from control_plane.problems import responses
from control_plane.security.authentication import StillAllowed
from control_plane.security.callers import STATE_KEY, Caller
from control_plane.security.permissions import Permission, needs

MAX_DIGITS = 18
_TOLD: Any = EventOut | LostOut
"""Litestar describes unions, which the types of its arguments do not say."""


def one_of_the_streams(app: ASGIApp) -> ASGIApp:
    """Middleware that counts a request among the streams for as long as it is answered."""

    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        feed: EventFeed = scope["litestar_app"].state.control_plane.events
        caller: Caller = scope["state"][STATE_KEY]
        # Where authentication is off all are one caller.
        known = None if caller.claims is None else f"{caller.role}:{caller.subject}"
        with feed.admitted(known):
            await app(scope, receive, send)

    return handle


class EventController(Controller):
    """What changes, as it changes."""

    path = "/events"
    tags = ("events",)

    @get(
        operation_id="followEvents",
        summary="Follow what changes",
        opt=needs(Permission.READ),
        middleware=[one_of_the_streams],
        media_type="text/event-stream",
        responses={
            200: ResponseSpec(
                _TOLD,
                media_type="text/event-stream",
                generate_examples=False,
                description="Server-sent events; the `data` of each is this.",
            ),
            **responses(400, 404, 422, 429, 503),
        },
    )
    async def follow(
        self,
        events: NamedDependency[EventFeed],
        database: NamedDependency[Database],
        caller: NamedDependency[Caller],
        still_allowed: NamedDependency[StillAllowed],
        types: Annotated[
            list[EventType] | None,
            QueryParameter(name="type", description="Only of these types; may be repeated."),
        ] = None,
        consumer: Annotated[
            str | None, QueryParameter(max_length=64, description="Id or name of the consumer.")
        ] = None,
        subscription: Annotated[
            str | None, QueryParameter(max_length=64, description="Id of the subscription.")
        ] = None,
        last_event_id: Annotated[
            str | None,
            HeaderParameter(
                name="Last-Event-ID",
                max_length=200,
                description="The `id` that came last: begin behind it. 0: with the oldest there "
                "is. Absent: with what comes from now on.",
            ),
        ] = None,
    ) -> ServerSentEvent:
        """Server-sent events of what changes; for a consumer, of itself and its subscriptions.

        `id` goes on with comments too while nothing happens: a connection that breaks, or is ended
        here after its longest time, is opened again with the last one as `Last-Event-ID`, at any
        control plane, and nothing is missed. When events behind it are no longer kept, or their
        numbers began anew, the first event is `events.lost`: list what is of interest anew.

        429: too many streams are open.
        """
        after = _number(last_event_id)
        only = caller.consumer
        async with database.transaction() as session:
            if consumer is not None:
                only = (await consumer_rows.find(session, consumer, only=only)).id
            if subscription is not None:
                await subscription_rows.find(session, subscription, only=caller.consumer)
        selection = Selection(frozenset(types) if types else None, only, subscription)
        await events.look()
        return ServerSentEvent(events.stream(selection, after, lambda: still_allowed(caller)))


def _number(last_event_id: str | None) -> int | None:
    """The number in `Last-Event-ID`; an empty one is none, as the standard has it."""
    if not last_event_id:
        return None
    digits = last_event_id.isascii() and last_event_id.isdigit()
    if not digits or len(last_event_id) > MAX_DIGITS:
        raise InvalidRequestError(
            "Last-Event-ID is not one that this API gave out.",
            [FieldProblem("header:Last-Event-ID", "use the `id` that came last, or none")],
        )
    return int(last_event_id)
