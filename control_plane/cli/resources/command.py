"""What a command is, and the fields that several have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from control_plane.cli.fields import Field, Json, LabelFilter, RowsFile, TextOrFile

JSON = Json()
TEXT = TextOrFile()
ROWS = Field("file", place="content", type=RowsFile(), argument=True)
SINCE = Field("since", "From this time on, as 2026-01-31T09:30:00Z.")
SOURCE = Field("source", "Only of this source.")
PARTITION = Field("partition", "Only of this partition.", type=int)
INSTRUMENT = Field("instrument", "Only of this instrument.")
NAME = Field("name", "Only of this name.")
REGION = Field("region", "Only in this region.")
LABEL = Field(
    "label",
    "Only with this label, with any value if none is given; may be repeated: with all.",
    type=LabelFilter(),
    many=True,
)
SUSPENDED = Field("suspended", "Only suspended ones (true), or the others (false).", type=bool)


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
        verifies: whether it is asked again, behind `next_after`, until all is checked; what does
            not hold is a failure.
        alone: what `--output` can print alone: `token`, or `etag` of a list that has one.
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
    verifies: bool = False
    alone: Literal["", "token", "etag"] = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Commands on one kind of thing."""

    name: str
    help: str
    commands: tuple[Command, ...]
