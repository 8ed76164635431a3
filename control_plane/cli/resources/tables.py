"""What events are made into: reference tables, transformations, schemas."""

from __future__ import annotations

from control_plane.cli.fields import IF_MATCH, KEY, Field, body, key
from control_plane.cli.resources.command import (
    JSON,
    NAME,
    ROWS,
    Command,
    Group,
    sort_by,
)

REFERENCE_TABLES = Group(
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
)


TRANSFORMATIONS = Group(
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
)


SCHEMAS = Group(
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
)
