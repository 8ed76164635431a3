"""What runs: plans, rollouts, topics, functions, operations."""

from __future__ import annotations

from control_plane.cli.fields import IF_MATCH, KEY, Field, body, key
from control_plane.cli.resources.command import (
    JSON,
    Command,
    Group,
    sort_by,
)

_PLAN = (
    "number",
    "view_count",
    "rollout.state",
    "rollout.detail",
    "created_at",
    "published_at",
    "rolled_back_to",
)
_PARTS = ("subscriptions", "instrument_sets", "reference_tables", "rules")


PLANS = Group(
    "plans",
    "What the functions execute.",
    (
        Command(
            "list",
            "listPlans",
            "GET",
            "/v1/plans",
            "List plans with their rollout, newest first.",
            (sort_by("number"),),
            columns=_PLAN,
            paged=True,
        ),
        Command(
            "current",
            "getCurrentPlan",
            "GET",
            "/v1/plans/current",
            "Describe the plan in force.",
        ),
        Command(
            "show",
            "getPlan",
            "GET",
            "/v1/plans/{number}",
            "Describe a plan.",
            (key("number"),),
        ),
        Command(
            "diff",
            "diffPlans",
            "GET",
            "/v1/plans/{before}/diff/{after}",
            "What changes from one plan to another: views, subscriptions, sets, tables.",
            (key("before"), key("after")),
        ),
        Command(
            "preview",
            "previewPlan",
            "POST",
            "/v1/plans:preview",
            "Try a change on the last minutes: what would appear, vanish or look different.",
            (
                body("create", "Subscriptions to make: '[{…}]'.", type=JSON),
                body("change", "Subscriptions to change: '[{…}]'.", type=JSON),
                body("delete", "A subscription to close; may be repeated.", many=True),
                body("entitlements", 'Of consumers: \'{"desk-7": {"venues": […]}}\'.', type=JSON),
                body("instrument_sets", 'Of sets: \'{"some": {"add": […]}}\'.', type=JSON),
                body(
                    "rules",
                    'Rules: \'{"change": {"some": {"enabled": false}}}\'.',
                    type=JSON,
                ),
                body("transformations", "Versions to make: '[{…}]'.", type=JSON),
                body("minutes", "How much of the log is read, back from now.", type=int),
                body("max_events", "Most events to read.", type=int),
                body("samples", "Most samples of each fate of a subscription.", type=int),
                body("top", "Most instruments to count events of.", type=int),
            ),
            from_file=True,
        ),
    ),
)


ROLLOUTS = Group(
    "rollouts",
    "How plans come to the functions.",
    (
        Command(
            "list",
            "listRollouts",
            "GET",
            "/v1/rollouts",
            "List the ways of plans, newest first.",
            columns=("plan", "state", "detail", "created_at", "published_at", "applied_at"),
            paged=True,
        ),
        Command(
            "show",
            "getRollout",
            "GET",
            "/v1/rollouts/{plan}",
            "Describe the way of a plan, with what each instance runs.",
            (key("plan"),),
        ),
        Command(
            "rollback",
            "rollBackToPlan",
            "POST",
            "/v1/rollouts/{plan}/rollback",
            "Put back what has changed since a plan, by a new one. Tells what is kept, and why.",
            (
                key("plan"),
                body("dry_run", "Only tell what would be put back.", flag=True),
                body("parts", "Only this; may be repeated.", type=_PARTS, many=True, option="part"),
                body("widen", "Also rules by which somebody may receive more.", flag=True),
                IF_MATCH,
                KEY,
            ),
            confirm="Others' subscriptions, sets, tables and rules are changed back. Roll back?",
        ),
    ),
)


TOPICS = Group(
    "topics",
    "Where events are.",
    (
        Command(
            "list",
            "listTopics",
            "GET",
            "/v1/topics",
            "List the topics of the topology, as they should be and as they are.",
            columns=("key", "name", "desired_partitions", "actual_partitions", "state"),
        ),
        Command(
            "show",
            "getTopic",
            "GET",
            "/v1/topics/{key}",
            "Describe a topic, also of a view (view-…), with what the broker counts.",
            (key("key"),),
        ),
    ),
)


FUNCTIONS = Group(
    "functions",
    "What runs inside the broker.",
    (
        Command(
            "list",
            "listFunctions",
            "GET",
            "/v1/functions",
            "List functions.",
            columns=(
                "name",
                "expected_instances",
                "reporting_instances",
                "plan",
                "versions",
                "cluster.state",
                "cluster.detail",
            ),
        ),
        Command(
            "show",
            "getFunction",
            "GET",
            "/v1/functions/{name}",
            "Describe a function with its instances, and where its config differs.",
            (key("name"),),
        ),
        Command(
            "restart",
            "restartFunction",
            "POST",
            "/v1/functions/{name}/restart",
            "Start all instances of a function anew. Tells the operation; ask it how it goes.",
            (key("name"), KEY),
            confirm="Events wait until its instances run again. Restart it?",
        ),
        Command(
            "redeploy",
            "redeployFunction",
            "POST",
            "/v1/functions/{name}/redeploy",
            "Make a function anew as the topology wants it, with the code that it has.",
            (key("name"), KEY),
            confirm="Events wait until its instances run again. Redeploy it?",
        ),
    ),
)


OPERATIONS = Group(
    "operations",
    "What takes its time.",
    (
        Command(
            "list",
            "listOperations",
            "GET",
            "/v1/operations",
            "List operations, newest first.",
            (
                Field("target", "Only on this function."),
                sort_by("created_at"),
                Field("state", "Absent: all.", type=("waiting", "running", "done", "failed")),
            ),
            columns=("id", "kind", "target", "state", "progress", "created_at", "ended_at"),
            paged=True,
        ),
        Command(
            "show",
            "getOperation",
            "GET",
            "/v1/operations/{key}",
            "Describe an operation: how far it is, what came of it.",
            (key("key"),),
        ),
    ),
)
