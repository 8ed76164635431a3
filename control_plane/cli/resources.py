"""All commands but those that are programs of their own, as a table: one row a command.

A test compares it with the API's description: operations, paths, parameters and bodies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import click

from control_plane.cli.fields import (
    IF_MATCH,
    KEY,
    LABELS,
    Field,
    Json,
    RowsFile,
    TextOrFile,
    body,
    key,
)

JSON = Json()
TEXT = TextOrFile()
ROWS = Field("file", place="content", type=RowsFile(), argument=True)
SINCE = Field("since", "From this time on, as 2026-01-31T09:30:00Z.")
SOURCE = Field("source", "Only of this source.")
PARTITION = Field("partition", "Only of this partition.", type=int)
INSTRUMENT = Field("instrument", "Only of this instrument.")
NAME = Field("name", "Only of this name.")
REGION = Field("region", "Only in this region.")
SUSPENDED = Field("suspended", "Only suspended ones (true), or the others (false).", type=bool)
FINDINGS = (
    "gap_opened",
    "gap_closed",
    "reversal",
    "repeat",
    "late_event",
    "source_reset",
    "epoch_changed",
)


def sort_by(*fields: str) -> Field:
    """An option that says by what a list is sorted."""
    return Field("sort", f"By {', '.join(fields)}; -{fields[0]} is the other way round.")


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: what it is called.
        operation: `operationId` of the API.
        method, path: of the request; `{…}` stands for fields.
        help: the first sentence is told in lists of commands.
        fields: what it takes, besides what all take.
        columns: members that a table of the answer's items shows; empty for one document.
        paged: whether the answer comes in pages.
        raw: whether the answer is bytes or text, to be written as they are.
        fixed: members of the body that are always the same.
        from_file: whether the body may come from a file (`-f`); fields stand above it.
        confirm: what to ask before it is done; "" for nothing.
        done: what to say when there is nothing else to tell.
    """

    name: str
    operation: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    help: str
    fields: tuple[Field, ...] = ()
    columns: tuple[str, ...] = ()
    paged: bool = False
    raw: bool = False
    fixed: tuple[tuple[str, Any], ...] = ()
    from_file: bool = False
    confirm: str = ""
    done: str = "done"


@dataclass(frozen=True, slots=True)
class Group:
    """Commands on one kind of thing."""

    name: str
    help: str
    commands: tuple[Command, ...]


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
    'What becomes of a backlog: \'{"policy": "drop_oldest", "messages": 1000}\'.',
    type=JSON,
)
_OF_RULE = (
    body("description", "For people."),
    body("when", "SQL condition over an event; '' for every event.", type=TEXT),
    body("consumers", 'Which ones: \'{"regions_except": ["eu"]}\'; absent: all.', type=JSON),
    body("origin_regions", "Of publishers in this region; may be repeated.", many=True),
    body("origin_regions_except", "Of all others; may be repeated.", many=True),
    body("enabled", "Whether it says anything.", type=bool),
    body("position", "Its place, from 1.", type=int),
)
_OF_PUBLISHER = (
    body("owner", "Team or person responsible."),
    body("contact", "How to reach the owner."),
    body("region", "Where its events originate, as rules name it; '' for nowhere."),
    LABELS,
    body("sources", "A source of its own; may be repeated.", many=True),
    body("venues", "A venue it is registered for; may be repeated.", many=True),
    body("kinds", "A kind it is registered for; may be repeated.", many=True),
)
_STATES = ("pending", "active", "paused", "closed")
_SUBSCRIPTION = ("id", "consumer_name", "name", "state", "format", "filter", "plan")
_PLAN = ("number", "view_count", "rollout.state", "rollout.detail", "created_at", "published_at")
_GAP = (
    "id",
    "state",
    "source",
    "instrument",
    "first",
    "last",
    "missing",
    "remaining",
    "opened_at",
    "closed_by",
)

GROUPS = (
    Group(
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
    ),
    Group(
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
                (key("key"),),
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
                    body("start", "Where to begin.", type=("latest", "earliest")),
                    _GROUP,
                    _ON_BACKLOG,
                    LABELS,
                    KEY,
                ),
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
                "Close a subscription. Its position in the topic is given up.",
                (key("key"), IF_MATCH),
                confirm="Close the subscription and give its position up?",
                done="closed",
            ),
        ),
    ),
    Group(
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
    ),
    Group(
        "sets",
        "Lists of instruments that filters name.",
        (
            Command(
                "list",
                "listInstrumentSets",
                "GET",
                "/v1/instrument-sets",
                "List instrument sets.",
                (NAME, sort_by("created_at", "name")),
                columns=("name", "id", "version", "instrument_count", "plan", "description"),
                paged=True,
            ),
            Command(
                "show",
                "getInstrumentSet",
                "GET",
                "/v1/instrument-sets/{key}",
                "Describe a set, by its id or name.",
                (key("key"),),
            ),
            Command(
                "create",
                "createInstrumentSet",
                "POST",
                "/v1/instrument-sets",
                "Make a set.",
                (
                    body("name", argument=True),
                    body("instruments", argument=True, many=True),
                    body("description", "For people."),
                    KEY,
                ),
            ),
            Command(
                "update",
                "updateInstrumentSet",
                "PATCH",
                "/v1/instrument-sets/{key}",
                "Change what a set holds. Subscriptions that name it follow at once.",
                (
                    key("key"),
                    body("add", "An instrument to add; may be repeated.", many=True),
                    body("remove", "An instrument to remove; may be repeated.", many=True),
                    body("instruments", "All it shall hold: '[\"AAPL\", …]'.", type=JSON),
                    body("description", "For people."),
                    IF_MATCH,
                    KEY,
                ),
            ),
            Command(
                "delete",
                "deleteInstrumentSet",
                "DELETE",
                "/v1/instrument-sets/{key}",
                "Delete a set that no filter and no entitlements name.",
                (key("key"), IF_MATCH),
                confirm="Delete the instrument set?",
                done="deleted",
            ),
            Command(
                "versions",
                "listInstrumentSetVersions",
                "GET",
                "/v1/instrument-sets/{key}/versions",
                "List the changes of a set, newest first.",
                (key("key"),),
                columns=("version", "instrument_count", "added", "removed", "plan", "created_at"),
                paged=True,
            ),
            Command(
                "version",
                "getInstrumentSetVersion",
                "GET",
                "/v1/instrument-sets/{key}/versions/{number}",
                "Describe one change of a set, and what it held then.",
                (key("key"), key("number")),
            ),
        ),
    ),
    Group(
        "rules",
        "Which events may go to which consumers: the first rule that matches decides.",
        (
            Command(
                "list",
                "listRules",
                "GET",
                "/v1/rules",
                "List routing rules in the order in which they decide.",
                columns=("position", "name", "effect", "enabled", "when", "consumers", "plan"),
                paged=True,
            ),
            Command(
                "show",
                "getRule",
                "GET",
                "/v1/rules/{key}",
                "Describe a rule, by its id or name.",
                (key("key"),),
            ),
            Command(
                "create",
                "createRule",
                "POST",
                "/v1/rules",
                "Make a rule.",
                (
                    body("name", argument=True),
                    body("effect", argument=True, type=("allow", "deny")),
                    *_OF_RULE,
                    KEY,
                ),
                from_file=True,
            ),
            Command(
                "update",
                "updateRule",
                "PATCH",
                "/v1/rules/{key}",
                "Change, enable, disable or move a rule.",
                (
                    key("key"),
                    body("name", "Its new name."),
                    body("effect", "allow or deny.", type=("allow", "deny")),
                    *_OF_RULE,
                    IF_MATCH,
                    KEY,
                ),
                from_file=True,
            ),
            Command(
                "reorder",
                "reorderRules",
                "POST",
                "/v1/rules:reorder",
                "Order all rules at once: name every one, the first one first.",
                (body("rules", argument=True, many=True), KEY),
            ),
            Command(
                "delete",
                "deleteRule",
                "DELETE",
                "/v1/rules/{key}",
                "Delete a rule. What only it denied is delivered from then on.",
                (key("key"), IF_MATCH),
                confirm="Delete the routing rule?",
                done="deleted",
            ),
        ),
    ),
    Group(
        "publishers",
        "Who sends events.",
        (
            Command(
                "list",
                "listPublishers",
                "GET",
                "/v1/publishers",
                "List publishers.",
                (NAME, REGION, SUSPENDED, sort_by("created_at", "name")),
                columns=("name", "id", "owner", "region", "sources", "suspended", "created_at"),
                paged=True,
            ),
            Command(
                "show",
                "getPublisher",
                "GET",
                "/v1/publishers/{key}",
                "Describe a publisher, by its id or name.",
                (key("key"),),
            ),
            Command(
                "create",
                "createPublisher",
                "POST",
                "/v1/publishers",
                "Register a publisher.",
                (body("name", argument=True), *_OF_PUBLISHER, KEY),
                from_file=True,
            ),
            Command(
                "update",
                "updatePublisher",
                "PATCH",
                "/v1/publishers/{key}",
                "Change a publisher.",
                (
                    key("key"),
                    *_OF_PUBLISHER,
                    body("suspended", "Whether it may not publish.", type=bool),
                    IF_MATCH,
                    KEY,
                ),
                from_file=True,
            ),
            Command(
                "delete",
                "deletePublisher",
                "DELETE",
                "/v1/publishers/{key}",
                "Delete a publisher; its tokens are revoked.",
                (key("key"), IF_MATCH),
                confirm="Delete the publisher?",
                done="deleted",
            ),
        ),
    ),
    Group(
        "reference-tables",
        "What is known of instruments, venues or currencies, to be joined to events.",
        (
            Command(
                "list",
                "listReferenceTables",
                "GET",
                "/v1/reference-tables",
                "List reference tables.",
                (NAME, sort_by("created_at", "name")),
                columns=("name", "id", "version", "rows", "size_bytes", "plan", "description"),
                paged=True,
            ),
            Command(
                "show",
                "getReferenceTable",
                "GET",
                "/v1/reference-tables/{key}",
                "Describe a table, by its id or name.",
                (key("key"),),
            ),
            Command(
                "create",
                "createReferenceTable",
                "POST",
                "/v1/reference-tables",
                "Make a table without rows.",
                (
                    body("name", argument=True),
                    body(
                        "columns",
                        'Names and types: \'[{"name": "instrument", "type": "text"}, …]\'.',
                        type=JSON,
                        required=True,
                    ),
                    body("key", "A column that rows are found by.", many=True, required=True),
                    body("valid_from", "The column that says from when on a row holds."),
                    body("description", "For people."),
                    KEY,
                ),
            ),
            Command(
                "rows",
                "listReferenceTableRows",
                "GET",
                "/v1/reference-tables/{key}/rows",
                "List the rows of a table.",
                (key("key"),),
                columns=("values",),
                paged=True,
            ),
            Command(
                "replace",
                "replaceReferenceTableRows",
                "PUT",
                "/v1/reference-tables/{key}/rows",
                "Put the rows of a file in the place of all that a table holds.",
                (key("key"), ROWS, IF_MATCH),
            ),
            Command(
                "update",
                "updateReferenceTableRows",
                "PATCH",
                "/v1/reference-tables/{key}/rows",
                "Add the rows of a file, in the place of those with an equal key.",
                (key("key"), ROWS, IF_MATCH, KEY),
            ),
            Command(
                "delete",
                "deleteReferenceTable",
                "DELETE",
                "/v1/reference-tables/{key}",
                "Delete a table that no transformation names.",
                (key("key"), IF_MATCH),
                confirm="Delete the reference table?",
                done="deleted",
            ),
            Command(
                "versions",
                "listReferenceTableVersions",
                "GET",
                "/v1/reference-tables/{key}/versions",
                "List the changes of a table, newest first.",
                (key("key"),),
                columns=("version", "rows", "size_bytes", "plan", "created_at"),
                paged=True,
            ),
        ),
    ),
    Group(
        "transformations",
        "Shared transformations, in versions that never change.",
        (
            Command(
                "list",
                "listTransformations",
                "GET",
                "/v1/transformations",
                "List versions of shared transformations.",
                (
                    Field("name", "Only versions of this one."),
                    sort_by("created_at", "name", "version"),
                ),
                columns=("reference", "id", "description", "created_at"),
                paged=True,
            ),
            Command(
                "show",
                "getTransformation",
                "GET",
                "/v1/transformations/{key}",
                "Describe a version, by its id or as name@version.",
                (key("key"),),
            ),
            Command(
                "create",
                "createTransformation",
                "POST",
                "/v1/transformations",
                "Make the first version of a name, or the next.",
                (
                    body("name", argument=True),
                    body("transformation", argument=True, type=JSON),
                    body("description", "For people."),
                    KEY,
                ),
            ),
            Command(
                "delete",
                "deleteTransformation",
                "DELETE",
                "/v1/transformations/{key}",
                "Delete a version that no live subscription refers to.",
                (key("key"),),
                confirm="Delete the version?",
                done="deleted",
            ),
        ),
    ),
    Group(
        "audit",
        "Who did what, and who was refused.",
        (
            Command(
                "list",
                "listAuditEntries",
                "GET",
                "/v1/audit",
                "List changes, refused attempts and repairs, newest first.",
                (
                    Field("actor", "Only of this caller."),
                    Field("operation", "Only of this operation."),
                    Field("action", "Only of this sort of change."),
                    Field("resource", "Only of this sort of thing."),
                    Field("resource_id", "Only of this thing."),
                    Field("request_id", "Only of this request."),
                    Field("outcome", "Absent: all.", type=("done", "failed", "refused")),
                    SINCE,
                    Field("until", "Before this time."),
                    sort_by("id"),
                ),
                columns=("recorded_at", "actor", "action", "resource", "resource_id", "outcome"),
                paged=True,
            ),
            Command(
                "verify",
                "verifyAudit",
                "GET",
                "/v1/audit/verification",
                "Compute the chain again: whether an entry was changed, removed or moved.",
                (
                    Field("after", "Begin behind this place of the chain.", type=int),
                    Field("limit", "Most entries to check.", type=int),
                    Field("head", "A head noted before, as sequence:digest; must be there still."),
                ),
            ),
        ),
    ),
    Group(
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
                    body(
                        "entitlements", 'Of consumers: \'{"desk-7": {"venues": […]}}\'.', type=JSON
                    ),
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
    ),
    Group(
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
        ),
    ),
    Group(
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
    ),
    Group(
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
    ),
    Group(
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
    ),
    Group(
        "ordering",
        "What the order of the sources shows.",
        (
            Command(
                "gaps",
                "listGaps",
                "GET",
                "/v1/ordering/gaps",
                "List gaps: events that are missing in a source's numbers, or were.",
                (
                    Field("state", "Absent: both.", type=("open", "closed")),
                    SOURCE,
                    INSTRUMENT,
                    PARTITION,
                    SINCE,
                    sort_by("opened_at"),
                ),
                columns=_GAP,
                paged=True,
            ),
            Command(
                "gap",
                "getGap",
                "GET",
                "/v1/ordering/gaps/{key}",
                "Describe a gap.",
                (key("key"),),
            ),
            Command(
                "resend",
                "requestResend",
                "POST",
                "/v1/ordering/gaps/{key}/resend",
                "Ask the source for what is missing.",
                (key("key"),),
            ),
            Command(
                "findings",
                "listFindings",
                "GET",
                "/v1/ordering/findings",
                "List everything that the sequencer found.",
                (
                    Field("type", "Absent: all.", type=FINDINGS),
                    SOURCE,
                    INSTRUMENT,
                    PARTITION,
                    SINCE,
                    sort_by("detected_at"),
                ),
                columns=(
                    "id",
                    "type",
                    "source",
                    "instrument",
                    "first",
                    "last",
                    "events",
                    "action",
                    "detected_at",
                ),
                paged=True,
            ),
            Command(
                "instrument",
                "getInstrument",
                "GET",
                "/v1/ordering/instruments/{instrument}",
                "Where an instrument stands: sequence, epoch, sources, gaps.",
                (key("instrument"),),
            ),
        ),
    ),
    Group(
        "dead-letters",
        "What the functions could not process.",
        (
            Command(
                "list",
                "listDeadLetters",
                "GET",
                "/v1/dead-letters",
                "List dead letters.",
                (
                    Field(
                        "function",
                        "Only of this one.",
                        type=("sequencer", "distributor", "conflator"),
                    ),
                    Field("code", "Only with this reason code."),
                    PARTITION,
                    SINCE,
                ),
                columns=("id", "state", "reason_code", "reason", "size_bytes", "stored_at"),
                paged=True,
            ),
            Command(
                "show",
                "getDeadLetter",
                "GET",
                "/v1/dead-letters/{key}",
                "Describe a dead letter.",
                (key("key"),),
            ),
            Command(
                "payload",
                "getDeadLetterPayload",
                "GET",
                "/v1/dead-letters/{key}/payload",
                "Write the bytes of a dead letter to standard output.",
                (key("key"),),
                raw=True,
            ),
            Command(
                "resend",
                "resendDeadLetter",
                "POST",
                "/v1/dead-letters/{key}/resend",
                "Send the frame of a dead letter again; once, however often this is called.",
                (key("key"), KEY),
            ),
        ),
    ),
    Group(
        "tokens",
        "Who may call.",
        (
            Command(
                "list",
                "listTokens",
                "GET",
                "/v1/tokens",
                "List tokens that have not expired.",
                (
                    Field("subject", "Only of this subject."),
                    Field("issued_by", "Only by this caller."),
                    sort_by("issued_at", "expires_at", "subject"),
                ),
                columns=("id", "subject", "role", "issued_by", "expires_at", "revoked"),
                paged=True,
            ),
            Command(
                "create",
                "createToken",
                "POST",
                "/v1/tokens",
                "Issue a token for a consumer, or for somebody in a role; without both, renew your"
                " own. It is told once and stored nowhere; `--output token` prints it alone.",
                (
                    body("consumer", "Id or name of the consumer."),
                    body("role", "The role.", type=("platform", "publisher", "read-only")),
                    body("subject", "Who has the role."),
                    body("lifetime_seconds", "How long it lives.", type=int),
                ),
            ),
            Command(
                "revoke",
                "revokeToken",
                "DELETE",
                "/v1/tokens/{key}",
                "Revoke a token, and what was renewed from it, by its id.",
                (key("key"),),
                confirm="Revoke the token?",
                done="revoked",
            ),
            Command(
                "revoke-all",
                "revokeTokens",
                "POST",
                "/v1/tokens/revoke",
                "Revoke all tokens of a subject.",
                (body("subject", argument=True), KEY),
                confirm="Revoke all its tokens?",
            ),
        ),
    ),
    Group(
        "schemas",
        "What events look like in each format.",
        (
            Command(
                "list",
                "listSchemas",
                "GET",
                "/v1/schemas",
                "List versions, kinds and files.",
                columns=("version", "kinds.kind", "kinds.files.path"),
            ),
            Command(
                "show",
                "getSchema",
                "GET",
                "/v1/schemas/{version}/{file}",
                "Write a schema file to standard output: `schemas show 1 trade.avsc`.",
                (key("version"), key("file")),
                raw=True,
            ),
        ),
    ),
    Group(
        "system",
        "The control plane itself.",
        (
            Command("health", "getHealth", "GET", "/healthz", "Whether the process is alive."),
            Command(
                "ready",
                "getReadiness",
                "GET",
                "/readyz",
                "Whether requests can be served, and what is missing.",
            ),
            Command("metrics", "getMetrics", "GET", "/metrics", "Prometheus metrics.", raw=True),
            Command("keys", "getKeys", "GET", "/.well-known/jwks.json", "Public keys of tokens."),
            Command(
                "discovery",
                "getDiscovery",
                "GET",
                "/.well-known/openid-configuration",
                "Where the public keys are.",
            ),
        ),
    ),
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
