"""Routes of subscriptions."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from control_plane.domains.subscriptions.health import HealthOut
from control_plane.domains.subscriptions.health_history import (
    LONGEST_STEP_SECONDS,
    HealthHistoryOut,
    HealthHistoryService,
    Span,
)
from control_plane.domains.subscriptions.lifecycle import LifecycleService
from control_plane.domains.subscriptions.reading import ReadingService
from control_plane.domains.subscriptions.repository import LISTING
from control_plane.domains.subscriptions.schemas import (
    HistoryOut,
    StateName,
    SubscriptionBatch,
    SubscriptionCreate,
    SubscriptionOut,
    SubscriptionsOut,
    SubscriptionUpdate,
)
from control_plane.domains.subscriptions.service import SubscriptionService
from control_plane.idempotency.middleware import Repeatable
from control_plane.listing import Labels
from control_plane.pages import (
    DEFAULT_LIMIT,
    Cursor,
    IfMatch,
    Limit,
    Moment,
    Page,
    etag,
    moment,
)
from control_plane.problems import responses
from control_plane.security.callers import Caller
from control_plane.security.permissions import Permission, needs

Key = Annotated[str, PathParameter(max_length=64, description="Id of the subscription.")]


class SubscriptionController(Controller):
    """What a consumer receives."""

    path = "/subscriptions"
    tags = ("subscriptions",)

    @post(
        "/",
        operation_id="createSubscription",
        operation_class=Repeatable,
        summary="Subscribe",
        opt=needs(Permission.SUBSCRIBE),
        responses=responses(400, 404, 409, 413, 422, 503),
    )
    async def create(
        self,
        data: JSONBody[SubscriptionCreate],
        subscriptions: NamedDependency[SubscriptionService],
        caller: NamedDependency[Caller],
    ) -> Response[SubscriptionOut]:
        """Make a subscription.

        201 with state `active`: the plan with it is published. 201 with state `pending`: it is
        stored and becomes active by itself; ask again. 503: nothing was stored.
        """
        created, version = await subscriptions.create(data, only=caller.consumer)
        headers = {"ETag": etag(version), "Location": f"/v1/subscriptions/{created.id}"}
        return Response(created, headers=headers)

    @get(
        "/",
        operation_id="listSubscriptions",
        summary="List subscriptions",
        opt=needs(Permission.READ),
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        subscriptions: NamedDependency[SubscriptionService],
        caller: NamedDependency[Caller],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        consumer: Annotated[
            str | None, QueryParameter(max_length=64, description="Id or name of the consumer.")
        ] = None,
        name: Annotated[str | None, QueryParameter(max_length=64)] = None,
        subscription_state: Annotated[
            StateName | None,
            QueryParameter(name="state", description="Absent: all that are not closed."),
        ] = None,
        subscription_format: Annotated[
            str | None, QueryParameter(name="format", max_length=64)
        ] = None,
        labels: Labels = None,
    ) -> Page[SubscriptionOut]:
        """Subscriptions in the order of their creation; for a consumer, its own."""
        return await subscriptions.page(
            cursor=cursor,
            limit=limit,
            sort=sort,
            consumer=consumer,
            name=name,
            state=subscription_state,
            format_=subscription_format,
            labels=labels,
            only=caller.consumer,
        )

    @get(
        "/{key:str}",
        operation_id="getSubscription",
        summary="Describe a subscription",
        opt=needs(Permission.READ),
        responses=responses(400, 404, 503),
    )
    async def read(
        self,
        key: Key,
        subscriptions: NamedDependency[SubscriptionService],
        caller: NamedDependency[Caller],
    ) -> Response[SubscriptionOut]:
        """One subscription, closed ones too."""
        found, version = await subscriptions.get(key, only=caller.consumer)
        return Response(found, headers={"ETag": etag(version)})

    @get(
        "/{key:str}/health",
        operation_id="getSubscriptionHealth",
        summary="How a subscription is read",
        opt=needs(Permission.READ),
        responses=responses(400, 404, 503),
    )
    async def health(
        self,
        key: Key,
        readings: NamedDependency[ReadingService],
        caller: NamedDependency[Caller],
        sequences: Annotated[
            bool,
            QueryParameter(
                description="Whether to tell up to which event each partition was delivered and "
                "acknowledged, for which the broker reads some messages."
            ),
        ] = False,
    ) -> HealthOut:
        """State with its reason, backlog, acknowledgements and connected clients, as of now."""
        return await readings.health(key, sequences=sequences, only=caller.consumer)

    @get(
        "/{key:str}/health/history",
        operation_id="getSubscriptionHealthHistory",
        summary="How a subscription was read",
        opt=needs(Permission.READ),
        responses=responses(400, 404, 422, 503),
    )
    async def health_history(
        self,
        key: Key,
        health_histories: NamedDependency[HealthHistoryService],
        caller: NamedDependency[Caller],
        since: Moment = None,
        until: Moment = None,
        step: Annotated[
            int | None,
            QueryParameter(
                ge=1,
                le=LONGEST_STEP_SECONDS,
                description="Seconds that one item is of; absent: a few hundred items.",
            ),
        ] = None,
    ) -> HealthHistoryOut:
        """State, backlog and rates over time, from `since` up to `until`, oldest first.

        Without them of the last day. It is looked about once a minute, and kept for some days.
        """
        span = Span.of(moment(since), moment(until, "until"), step, datetime.now(UTC))
        return await health_histories.history(key, span, only=caller.consumer)

    @get(
        "/{key:str}/history",
        operation_id="getSubscriptionHistory",
        summary="What happened to a subscription",
        opt=needs(Permission.READ),
        responses=responses(400, 404, 422, 503),
    )
    async def history(
        self,
        key: Key,
        lifecycles: NamedDependency[LifecycleService],
        caller: NamedDependency[Caller],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Page[HistoryOut]:
        """Who changed it when, how and from which plan on, newest first."""
        return await lifecycles.history(key, cursor=cursor, limit=limit, only=caller.consumer)

    @patch(
        "/{key:str}",
        operation_id="updateSubscription",
        operation_class=Repeatable,
        summary="Change a subscription",
        opt=needs(Permission.SUBSCRIBE),
        responses=responses(400, 404, 409, 412, 413, 422, 503),
    )
    async def update(
        self,
        key: Key,
        data: JSONBody[SubscriptionUpdate],
        lifecycles: NamedDependency[LifecycleService],
        caller: NamedDependency[Caller],
        if_match: IfMatch = None,
    ) -> Response[SubscriptionOut]:
        """Change what is named.

        Another filter, transformation, format or delivery: the answer names the new topic, the
        plan from which it is the subscription's, and in `draining` the topics before it with until
        when they can be read. State `pending`: it becomes `active` by itself, and until then the
        old topic goes on.
        """
        changed, version = await lifecycles.update(key, data, if_match, only=caller.consumer)
        return Response(changed, headers={"ETag": etag(version)})

    @post(
        "/{key:str}/pause",
        operation_id="pauseSubscription",
        operation_class=Repeatable,
        summary="Pause a subscription",
        opt=needs(Permission.SUBSCRIBE),
        status_code=200,
        responses=responses(400, 404, 409, 412, 422, 503),
    )
    async def pause(
        self,
        key: Key,
        lifecycles: NamedDependency[LifecycleService],
        caller: NamedDependency[Caller],
        if_match: IfMatch = None,
    ) -> Response[SubscriptionOut]:
        """Let a subscription receive nothing, and keep its place.

        What is for it is stored for it as long as its topic's limits allow. Where the broker asks
        who its clients are, those that read are cut off within seconds; elsewhere it is up to them.
        """
        found, version = await lifecycles.pause(key, if_match, only=caller.consumer)
        return Response(found, headers={"ETag": etag(version)})

    @post(
        "/{key:str}/resume",
        operation_id="resumeSubscription",
        operation_class=Repeatable,
        summary="Resume a subscription",
        opt=needs(Permission.SUBSCRIBE),
        status_code=200,
        responses=responses(400, 404, 409, 412, 422, 503),
    )
    async def resume(
        self,
        key: Key,
        lifecycles: NamedDependency[LifecycleService],
        caller: NamedDependency[Caller],
        if_match: IfMatch = None,
    ) -> Response[SubscriptionOut]:
        """Let a paused subscription receive again, from its place on.

        A client that was cut off subscribes again under the same name.
        """
        found, version = await lifecycles.resume(key, if_match, only=caller.consumer)
        return Response(found, headers={"ETag": etag(version)})

    @delete(
        "/{key:str}",
        operation_id="closeSubscription",
        summary="Close a subscription",
        opt=needs(Permission.SUBSCRIBE),
        responses=responses(400, 404, 412, 422, 503),
    )
    async def close(
        self,
        key: Key,
        lifecycles: NamedDependency[LifecycleService],
        caller: NamedDependency[Caller],
        if_match: IfMatch = None,
        drain: Annotated[
            int | None,
            QueryParameter(
                ge=1,
                le=86_400,
                description="Seconds in which what was routed to it before may still be read; "
                "absent: it is closed at once. More than the platform allows is refused.",
            ),
        ] = None,
    ) -> None:
        """Close a subscription: its position in the topic is given up.

        With `drain` it is `draining` first: nothing new is routed for it from a plan on, which
        `draining` of the subscription names, and until its time is over it can be read out. It is
        `closed` then, or at once by another request without `drain`.
        """
        await lifecycles.close(key, if_match, drain_seconds=drain, only=caller.consumer)


class SubscriptionBatchController(Controller):
    """Many subscriptions at once."""

    path = "/subscriptions:batch-create"
    tags = ("subscriptions",)

    @post(
        "/",
        operation_id="createSubscriptions",
        operation_class=Repeatable,
        summary="Subscribe many times",
        opt=needs(Permission.SUBSCRIBE),
        responses=responses(400, 404, 409, 413, 422, 503),
    )
    async def create(
        self,
        data: JSONBody[SubscriptionBatch],
        subscriptions: NamedDependency[SubscriptionService],
        caller: NamedDependency[Caller],
    ) -> SubscriptionsOut:
        """Make up to 500 subscriptions, all or none of them, under one plan.

        Answered as soon as they are stored, most of them `pending`: each becomes active by itself.
        What is wrong with one says where it stands, as `/subscriptions/17/filter`.
        """
        return SubscriptionsOut(
            await subscriptions.create_all(data.subscriptions, only=caller.consumer)
        )
