"""Pages, times and entity tags: the conventions that every list and resource follows.

How lists are sorted and continued stands in `control_plane/listing.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Generic, TypeVar

import msgspec
from litestar.openapi.spec.enums import OpenAPIFormat
from litestar.params import HeaderParameter, QueryParameter

from control_plane.errors import FieldProblem, InvalidRequestError, PreconditionFailedError

T = TypeVar("T")

DEFAULT_LIMIT = 100
MAX_LIMIT = 1000

Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description="Most items to answer with.")]
Cursor = Annotated[
    str | None,
    QueryParameter(
        max_length=1000, description="`next_cursor` of the page before; absent: the first."
    ),
]
IfMatch = Annotated[
    str | None,
    HeaderParameter(
        name="If-Match",
        max_length=200,
        description="ETag that the resource must still have; else 412.",
    ),
]


Moment = Annotated[
    str | None,
    QueryParameter(
        format=OpenAPIFormat.DATE_TIME,
        max_length=40,
        description="A time with its offset, as in 2026-01-31T09:30:00Z.",
    ),
]
LARGEST_NUMBER = 2**53 - 1
"""Of what is counted here: every reader of JSON has it exactly."""


class Page(msgspec.Struct, Generic[T]):
    """One page of a list; `next_cursor` is null on the last one."""

    items: list[T]
    next_cursor: str | None


def decode_number(cursor: str, *, most_digits: int) -> int:
    """The number a cursor continues before, in lists by number; InvalidRequestError for others."""
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= most_digits):
        raise foreign_cursor()
    return int(cursor)


def foreign_cursor() -> InvalidRequestError:
    """The refusal of a cursor that was not made here."""
    return InvalidRequestError(
        "The cursor is not one that this API gave out.",
        [
            FieldProblem(
                "query:cursor", "use `next_cursor` of the page before, unchanged, with its `sort`"
            )
        ],
    )


def etag(version: int | str) -> str:
    """The entity tag of a row's version, or of what stands for that of several rows."""
    return f'"{version}"'


def check_match(if_match: str | None, version: int | str) -> None:
    """PreconditionFailedError unless If-Match is absent, `*`, or names this version."""
    if if_match is None:
        return
    tags = {tag.strip() for tag in if_match.split(",")}
    if "*" not in tags and etag(version) not in tags:
        raise PreconditionFailedError(etag(version))


def moment(text: str | None, parameter: str = "since") -> datetime | None:
    """The time in a parameter, as `read_moment`."""
    return None if text is None else read_moment(text, f"query:{parameter}")


def read_moment(text: str, pointer: str) -> datetime:
    """The time in a text; InvalidRequestError where it is none, or does not say its offset.

    Litestar's own reading of times takes numbers, too, for seconds since the epoch.
    """
    try:
        # A plus sign that is not escaped in a URL arrives as a space.
        found = datetime.fromisoformat(text.replace(" ", "+")) if "T" in text.upper() else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise InvalidRequestError(
            "The time is not one, or ambiguous.",
            [FieldProblem(pointer, "give date, time and offset, as in 2026-01-31T09:30:00Z")],
        )
    return found
