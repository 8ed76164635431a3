"""Who receives what: consumers, subscriptions, groups."""

from __future__ import annotations

from control_plane.cli.fields import IF_MATCH, KEY, LABELS, Field, WordOrJson, body, key
from control_plane.cli.resources.command import (
    JSON,
    LABEL,
    NAME,
    REGION,
    SINCE,
    SUSPENDED,
    TEXT,
    Command,
    Group,
    sort_by,
)

_OF_CONSUMER = (
    body("owner", "Team or person responsible."),
    body("contact", "How to reach the owner."),
    body("region", "Where the consumer runs, as rules name it; '' for nowhere."),
    body("workflow", "The downstream workflow it belongs to, as rules name it; '' for none."),
    LABELS,
    body(
        "entitlements",
        'What it may receive: \'{"venues": ["XNAS"], "kinds": ["trade"]}\'.',
        type=JSON,
    ),
)
_CONSUMER = ("name", "id", "owner", "region", "suspended", "created_at")
_VIEW = (
    body("filter", "SQL condition; '' for every event.", type=TEXT),
    body(
        "transformation",
        'Columns: \'{"compute": {"mid": "(bid_price + ask_price) / 2"}}\'.',
        type=JSON,
    ),
    body("shared_transformation", "In its place: name@version of a shared one."),
    body("format", "arrow, json, avro, protobuf, csv, msgpack, fix, …"),
    body("delivery", 'How frames are written: \'{"compression": "lz4"}\'.', type=JSON),
)
_GROUP = body("group", "What its members are called together.")
_ON_BACKLOG = body(
    "on_backlog",
    'What becomes of a backlog: \'{"policy": "conflate", "messages": 1000, "every_ms": 500}\'.',
    type=JSON,
)
_THRESHOLDS = body(
    "thresholds",
    "From when it lags or has stalled: '{\"lagging_after_seconds\": 60}'.",
    type=JSON,
)
_STATES = ("pending", "active", "paused", "draining", "closed")
_SUBSCRIPTION = ("id", "consumer_name", "name", "state", "format", "filter", "plan")


CONSUMERS = Group(
    "consumers",
    "Who receives events.",
    (
        Command(
            "list",
            "listConsumers",
            "GET",
            "/v1/consumers",
            "List consumers.",
            (
                NAME,
                REGION,
                Field("workflow", "Only of this workflow."),
                SUSPENDED,
                LABEL,
                sort_by("created_at", "name"),
            ),
            columns=_CONSUMER,
            paged=True,
        ),
        Command(
            "show",
            "getConsumer",
            "GET",
            "/v1/consumers/{key}",
            "Describe a consumer, by its id or name.",
            (key("key"),),
        ),
        Command(
            "create",
            "createConsumer",
            "POST",
            "/v1/consumers",
            "Register a consumer.",
            (body("name", argument=True), *_OF_CONSUMER, KEY),
        ),
        Command(
            "update",
            "updateConsumer",
            "PATCH",
            "/v1/consumers/{key}",
            "Change what is named. Bounds of entitlements that are not named stay, null takes"
            " one away.",
            (key("key"), *_OF_CONSUMER, IF_MATCH, KEY),
        ),
        Command(
            "suspend",
            "updateConsumer",
            "PATCH",
            "/v1/consumers/{key}",
            "Let a consumer receive nothing. What it has not read is lost to it.",
            (key("key"), IF_MATCH, KEY),
            fixed=(("suspended", True),),
            confirm="What the consumer has not read is lost to it. Suspend it?",
        ),
        Command(
            "resume",
            "updateConsumer",
            "PATCH",
            "/v1/consumers/{key}",
            "Let a suspended consumer receive again.",
            (key("key"), IF_MATCH, KEY),
            fixed=(("suspended", False),),
        ),
        Command(
            "delete",
            "deleteConsumer",
            "DELETE",
            "/v1/consumers/{key}",
            "Delete a consumer that has no subscriptions, and revoke its tokens.",
            (key("key"), IF_MATCH),
            confirm="Delete the consumer?",
            done="deleted",
        ),
    ),
)


SUBSCRIPTIONS = Group(
    "subscriptions",
    "What a consumer receives.",
    (
        Command(
            "list",
            "listSubscriptions",
            "GET",
            "/v1/subscriptions",
            "List subscriptions.",
            (
                Field("consumer", "Only of this consumer."),
                NAME,
                Field("format", "Only in this format."),
                LABEL,
                sort_by("created_at", "name"),
                Field(
                    "state",
                    "Absent: all not closed.",
                    type=_STATES,
                ),
            ),
            columns=_SUBSCRIPTION,
            paged=True,
        ),
        Command(
            "show",
            "getSubscription",
            "GET",
            "/v1/subscriptions/{key}",
            "Describe a subscription, with all that a Pulsar client needs.",
            (key("key"),),
        ),
        Command(
            "health",
            "getSubscriptionHealth",
            "GET",
            "/v1/subscriptions/{key}/health",
            "How a subscription is read now.",
            (
                key("key"),
                Field("sequences", "Whether to tell up to which event, too.", type=bool),
            ),
        ),
        Command(
            "health-history",
            "getSubscriptionHealthHistory",
            "GET",
            "/v1/subscriptions/{key}/health/history",
            "How a subscription was read, oldest first: of the last day, or of a time.",
            (
                key("key"),
                SINCE,
                Field("until", "Before this time."),
                Field("step", "Seconds that one row is of.", type=int),
            ),
            columns=(
                "at",
                "state",
                "members",
                "backlog_messages",
                "backlog_bytes",
                "backlog_age_seconds",
                "rate",
            ),
        ),
        Command(
            "history",
            "getSubscriptionHistory",
            "GET",
            "/v1/subscriptions/{key}/history",
            "What happened to a subscription, newest first.",
            (key("key"),),
            columns=("number", "at", "type", "state", "plan", "actor", "data"),
            paged=True,
        ),
        Command(
            "create",
            "createSubscription",
            "POST",
            "/v1/subscriptions",
            "Subscribe a consumer under a name.",
            (
                body("consumer", argument=True),
                body("name", argument=True),
                *_VIEW,
                body(
                    "start",
                    'Where to begin; at a time: \'{"time": "2026-11-30T15:00:00Z"}\'.',
                    type=WordOrJson("latest", "earliest"),
                ),
                _GROUP,
                _ON_BACKLOG,
                _THRESHOLDS,
                LABELS,
                KEY,
            ),
        ),
        Command(
            "create-many",
            "createSubscriptions",
            "POST",
            "/v1/subscriptions:batch-create",
            "Make up to 500 subscriptions, all or none: a file with the list `subscriptions`.",
            (body("subscriptions", "Subscriptions to make: '[{…}]'.", type=JSON), KEY),
            columns=_SUBSCRIPTION,
            from_file=True,
        ),
        Command(
            "update",
            "updateSubscription",
            "PATCH",
            "/v1/subscriptions/{key}",
            "Change what is named. Another filter, transformation, format or delivery gives it"
            " another topic.",
            (
                key("key"),
                body("name", "Its new name."),
                *_VIEW,
                _GROUP,
                _ON_BACKLOG,
                _THRESHOLDS,
                LABELS,
                IF_MATCH,
                KEY,
            ),
        ),
        Command(
            "pause",
            "pauseSubscription",
            "POST",
            "/v1/subscriptions/{key}/pause",
            "Let a subscription receive nothing, and keep its place.",
            (key("key"), IF_MATCH, KEY),
        ),
        Command(
            "resume",
            "resumeSubscription",
            "POST",
            "/v1/subscriptions/{key}/resume",
            "Let a paused subscription receive again, from its place on.",
            (key("key"), IF_MATCH, KEY),
        ),
        Command(
            "delete",
            "closeSubscription",
            "DELETE",
            "/v1/subscriptions/{key}",
            "Close a subscription. Its position in the topic is given up, at once or when it had"
            " time to be read out.",
            (
                key("key"),
                Field("drain", "Seconds in which what is there may still be read.", type=int),
                IF_MATCH,
            ),
            confirm="Close the subscription and give its position up?",
            done="closed; with --drain, when that time is over",
        ),
    ),
)


GROUPS = Group(
    "groups",
    "Who reads under a subscription.",
    (
        Command(
            "list",
            "listGroups",
            "GET",
            "/v1/groups",
            "List groups with their members as they were last seen.",
            (
                Field("consumer", "Only of this consumer."),
                NAME,
                sort_by("created_at"),
                Field("occupied", "Only with members (true), or without (false).", type=bool),
            ),
            columns=("subscription", "consumer_name", "name", "members.name", "changed_at"),
            paged=True,
        ),
        Command(
            "show",
            "getGroup",
            "GET",
            "/v1/groups/{key}",
            "Describe the group of a subscription: what each member reads, and who has left.",
            (key("key"),),
        ),
    ),
)
