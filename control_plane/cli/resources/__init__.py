"""All commands but those that are programs of their own, as tables: one row a command.

A test compares them with the API's description: operations, paths, parameters and bodies.
"""

from __future__ import annotations

import click

from control_plane.cli.fields import Field
from control_plane.cli.resources import access, consumers, order, plans, rules, tables
from control_plane.cli.resources.command import Command

GROUPS = (
    consumers.CONSUMERS,
    consumers.SUBSCRIPTIONS,
    consumers.GROUPS,
    rules.SETS,
    rules.RULES,
    rules.PUBLISHERS,
    tables.REFERENCE_TABLES,
    tables.TRANSFORMATIONS,
    access.AUDIT,
    plans.PLANS,
    plans.ROLLOUTS,
    plans.TOPICS,
    plans.FUNCTIONS,
    plans.OPERATIONS,
    order.ORDERING,
    order.DEAD_LETTERS,
    access.TOKENS,
    tables.SCHEMAS,
    access.SYSTEM,
)

EXPLAIN = Command(
    "explain",
    "explainDelivery",
    "GET",
    "/v1/explain",
    "Why an event was or was not delivered: SUBSCRIPTION (id) INSTRUMENT SEQUENCE (our number).",
    (
        Field("subscription", argument=True),
        Field("instrument", argument=True),
        Field("sequence", argument=True, type=int),
        Field("epoch", "Absent: the newest of its partition.", type=int),
    ),
)
COMMANDS = (*(command for group in GROUPS for command in group.commands), EXPLAIN)

FOLLOW = Command(
    "follow",
    "followEvents",
    "GET",
    "/v1/events",
    "Tell what changes, as it changes, until Ctrl-C. A connection that ends is opened again where"
    " it was.",
    (
        Field(
            "type",
            "Only of this type, as subscription.active; may be repeated.",
            many=True,
        ),
        Field("consumer", "Only about this consumer."),
        Field("subscription", "Only about this subscription."),
        Field(
            "Last-Event-ID",
            "Begin behind this event; 0: with the oldest. Absent: now.",
            place="header",
            option="after",
            type=click.IntRange(min=0),
        ),
    ),
)
