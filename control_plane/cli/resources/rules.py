"""What is routed: instrument sets, rules, publishers."""

from __future__ import annotations

from control_plane.cli.fields import IF_MATCH, KEY, LABELS, body, key
from control_plane.cli.resources.command import (
    JSON,
    LABEL,
    NAME,
    REGION,
    SUSPENDED,
    TEXT,
    Command,
    Group,
    sort_by,
)

_EFFECTS = ("allow", "deny", "prioritize")
_OF_RULE = (
    body("priority", "What views get of which every event matches: 0 to 3.", type=int),
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


SETS = Group(
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
)


RULES = Group(
    "rules",
    "Which events may go to which consumers: the first rule that matches decides.",
    (
        Command(
            "list",
            "listRules",
            "GET",
            "/v1/rules",
            "List routing rules in the order in which they decide. `--output etag` prints the ETag"
            " of that order alone.",
            columns=(
                "position",
                "name",
                "effect",
                "priority",
                "enabled",
                "when",
                "consumers",
                "plan",
            ),
            paged=True,
            alone="etag",
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
                body("effect", argument=True, type=_EFFECTS),
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
                body("effect", "What it does.", type=_EFFECTS),
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
            (body("rules", argument=True, many=True), IF_MATCH, KEY),
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
)


PUBLISHERS = Group(
    "publishers",
    "Who sends events.",
    (
        Command(
            "list",
            "listPublishers",
            "GET",
            "/v1/publishers",
            "List publishers.",
            (NAME, REGION, SUSPENDED, LABEL, sort_by("created_at", "name")),
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
)
