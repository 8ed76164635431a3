"""Instrument sets: lists of instruments that change without the filters that name them.

A filter keeps the name. Who runs it gives it the sets as they stand, which leaves an ordinary IN:
nothing behind this module knows of sets.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

import msgspec

from marketdata.filters.errors import FilterTypeError, UnknownSet
from marketdata.filters.tree import Column, Expression, In, InSet, Text, Truth, to_sql, walk

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?\Z")


def check_set(operand: Expression, name: str) -> None:
    """Refuse IN SET of anything but `instrument`, and what cannot be a set's name.

    Raises:
        FilterTypeError: without a position.
    """
    if operand != Column("instrument"):
        raise FilterTypeError(
            f"sets hold instruments, {to_sql(operand)} is none", hint="write instrument IN SET '…'"
        )
    if not _NAME.match(name):
        raise FilterTypeError(
            f"{name!r} is no name of a set", hint="names consist of a-z, 0-9, '.', '_' and '-'"
        )


def sets_of(node: Expression) -> frozenset[str]:
    """The names of the sets that a tree asks for."""
    return frozenset(part.name for part in walk(node) if isinstance(part, InSet))


def members_of(name: str, sets: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """What a set holds, sorted and without doubles.

    Raises:
        UnknownSet: the name is not among the sets.
    """
    members = sets.get(name)
    if members is None:
        raise UnknownSet(f"there is no instrument set {name!r}", hint="make it first")
    return tuple(sorted(set(members)))


def bind(node: Expression, sets: Mapping[str, Collection[str]]) -> Expression:
    """The tree with what the sets hold in the place of their names; not yet normal.

    Raises:
        UnknownSet: a name is not among the sets.
    """
    found: Expression = _bound(node, sets)
    return found


def _bound(value: Any, sets: Mapping[str, Collection[str]]) -> Any:
    match value:
        case InSet(operand, name):
            return _membership(operand, name, sets)
        case tuple():
            return tuple(_bound(part, sets) for part in value)
        case msgspec.Struct():
            parts = (getattr(value, name) for name in value.__struct_fields__)
            return type(value)(*(_bound(part, sets) for part in parts))
        case _:
            return value


def _membership(operand: Expression, name: str, sets: Mapping[str, Collection[str]]) -> Expression:
    members = members_of(name, sets)
    # An instrument is never NULL: to be in no list is FALSE.
    return In(operand, tuple(map(Text, members))) if members else Truth(False)
