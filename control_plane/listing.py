"""How lists are sorted, filtered and continued: one convention for all that come out of tables.

A list says once by which fields it can be sorted. `sort=name,-created_at` is checked against
them, the key breaks ties, and a cursor says behind which row the next page begins, in the order
that it was made in. So a cursor stays valid while rows come and go.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import GenericAlias
from typing import Annotated, Any, TypeVar

import msgspec
from litestar.connection import ASGIConnection
from litestar.exceptions import ValidationException
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter
from msgspec import Meta
from sqlalchemy import ColumnElement, Select, and_, or_, tuple_

from control_plane.database import Base
from control_plane.errors import FieldProblem, InvalidRequestError
from control_plane.pages import Page, foreign_cursor

T = TypeVar("T")
Q = TypeVar("Q", bound="Select[*tuple[Any, ...]]")

_NEVER_LONGER = 200
_KINDS: dict[type, Any] = {
    datetime: Annotated[datetime, Meta(tz=True)],
    int: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)],
    str: Annotated[str, Meta(max_length=_NEVER_LONGER)],
}


@dataclass(frozen=True, slots=True)
class Term:
    """One field that a list is sorted by; rows have it under the same name, and never NULL."""

    name: str
    column: Any
    descending: bool = False

    @property
    def ordered(self) -> ColumnElement[Any]:
        """For ORDER BY."""
        return self.column.desc() if self.descending else self.column.asc()

    def behind(self, value: Any) -> ColumnElement[bool]:
        """What comes behind a value."""
        return self.column < value if self.descending else self.column > value


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One page that was asked for: its order, and behind which values of it the page begins."""

    sort: str
    terms: tuple[Term, ...]
    after: tuple[Any, ...] | None
    limit: int

    def of(self, query: Q) -> Q:
        """The rows of the page, and one more where there are more."""
        if self.after is not None:
            query = query.where(self._behind(self.after))
        return query.order_by(*(term.ordered for term in self.terms)).limit(self.limit + 1)

    def page(self, items: Sequence[T], rows: Sequence[Any]) -> Page[T]:
        """The page of the items that were made of the rows."""
        if len(items) <= self.limit:
            return Page(list(items), None)
        last = rows[self.limit - 1]
        place = [self.sort, *(getattr(last, term.name) for term in self.terms)]
        cursor = base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()
        return Page(list(items[: self.limit]), cursor)

    def _behind(self, values: tuple[Any, ...]) -> ColumnElement[bool]:
        directions = {term.descending for term in self.terms}
        if len(directions) == 1:
            place: Any = tuple_(*(term.column for term in self.terms))
            return place < values if directions.pop() else place > values
        steps = [
            and_(
                *(
                    same.column == value
                    for same, value in zip(self.terms[:n], values, strict=False)
                ),
                term.behind(values[n]),
            )
            for n, term in enumerate(self.terms)
        ]
        # The first term alone, too: it is what an index goes by.
        first = self.terms[0]
        return and_(or_(first.behind(values[0]), first.column == values[0]), or_(*steps))


class Listing:
    """By what a list can be sorted.

    Args:
        row: the table.
        fields: names of columns that are never NULL, and that the answer has, too; the first one
            is the order where none is asked for, newest first with `-`.
        key: the column that breaks ties.
    """

    def __init__(self, row: type[Base], *fields: str, key: str = "id") -> None:
        self.fields = tuple(field.removeprefix("-") for field in fields)
        self._row = row
        self._default = fields[0]
        self._key = key

    @cached_property
    def parameter(self) -> QueryParameter:
        """The description of `sort`."""
        one = f"-?({'|'.join(self.fields)})"
        return QueryParameter(
            max_length=_NEVER_LONGER,
            description="What to sort by, the other way round with `-`, several with commas: "
            f"{', '.join(self.fields)}. Absent: {self._default}.",
            # Told, not checked by it: the refusal says more than that a pattern does not fit.
            schema_extra={"pattern": f"^{one}(,{one})*$"},
        )

    def ask(self, sort: str | None, cursor: str | None, limit: int) -> PageRequest:
        """A page of the list; InvalidRequestError for an order or a cursor that it has not."""
        sort = self._default if sort is None else sort
        terms = self._terms(sort)
        after = None if cursor is None else self._place(cursor, sort, terms)
        return PageRequest(sort, terms, after, limit)

    def _terms(self, sort: str) -> tuple[Term, ...]:
        found: dict[str, Term] = {}
        for each in sort.split(","):
            name = each.removeprefix("-")
            if name not in self.fields or name in found:
                why = "it stands there twice" if name in found else "there is no such field"
                raise InvalidRequestError(
                    f"The list cannot be sorted by {each!r}.",
                    [FieldProblem("query:sort", f"{why}; allowed: {', '.join(self.fields)}")],
                )
            found[name] = Term(name, getattr(self._row, name), each.startswith("-"))
        last = next(reversed(found.values()))
        # In the direction of the last one, so that one index has the whole order.
        found.setdefault(self._key, Term(self._key, getattr(self._row, self._key), last.descending))
        return tuple(found.values())

    @staticmethod
    def _place(cursor: str, sort: str, terms: tuple[Term, ...]) -> tuple[Any, ...]:
        kinds: Any = [_KINDS[term.column.type.python_type] for term in terms]
        try:
            content = base64.urlsafe_b64decode(cursor.encode())
            made_for, *place = msgspec.json.decode(content, type=GenericAlias(tuple, (str, *kinds)))
        except (ValueError, binascii.Error, msgspec.MsgspecError):
            raise foreign_cursor() from None
        if made_for != sort or not all(
            value.isprintable() for value in place if isinstance(value, str)
        ):
            raise foreign_cursor()
        return tuple(place)


def equal(*wanted: tuple[Any, Any]) -> list[ColumnElement[bool]]:
    """The conditions of a list: columns and what they must be, None for anything."""
    return [column == value for column, value in wanted if value is not None]


Labels = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=264, pattern=r"^[^\x00]*$")]] | None,
    QueryParameter(
        name="label",
        max_items=32,
        description="Only with this label: `name:value`, or `name` with any value. May be repeated:"
        " with all of them. What stands before the first colon is the name.",
    ),
]


def labelled(column: Any, wanted: Sequence[str] | None) -> list[ColumnElement[bool]]:
    """The conditions of a list: the labels, as they are asked for, that a row must have.

    Args:
        column: names and values, JSONB; an index on it (GIN) answers both.
    """
    conditions = []
    for each in wanted or ():
        name, colon, value = each.partition(":")
        conditions.append(column.contains({name: value}) if colon else column.has_key(name))
    return conditions


def require_known_parameters(
    connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler
) -> None:
    """A guard: InvalidRequestError for query parameters that the route has not, or not twice."""
    known = {
        definition.query or definition.name or name: field
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(definition := field.kwarg_definition, QueryParameter)
    }
    given = Counter(name for name, _ in connection.query_params.multi_items())
    foreign = [name for name in given if name not in known]
    if foreign:
        allowed = f"allowed: {', '.join(sorted(known))}" if known else "the route takes none"
        raise InvalidRequestError(
            f"There is no query parameter {foreign[0][:_NEVER_LONGER]!r} here.",
            [FieldProblem(f"query:{name[:_NEVER_LONGER]}", allowed) for name in foreign[:10]],
        )
    doubled = [
        name
        for name, times in given.items()
        if times > 1 and not known[name].is_non_string_sequence
    ]
    if doubled:
        raise InvalidRequestError(
            f"The query parameter {doubled[0]!r} stands there more than once.",
            [FieldProblem(f"query:{name}", "give it once") for name in doubled],
        )


def require_text(
    connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler
) -> None:
    """A guard: ValidationException for U+0000 in path or query; text in PostgreSQL has none."""
    wrong = [
        {"key": name, "message": "text may not contain U+0000", "source": source}
        for source, given in (
            ("path", connection.path_params.items()),
            ("query", connection.query_params.multi_items()),
        )
        for name, value in given
        if "\0" in str(value)
    ]
    if wrong:
        raise ValidationException(extra=wrong)
