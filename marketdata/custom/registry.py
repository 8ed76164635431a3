"""Which custom transformations are installed: those named by entry points `dds.transformations`.

An entry point names a class, or another callable without arguments, that gives a
`CustomTransformation` of the entry point's name. One that cannot be loaded, does not keep the
contract, or takes a name that is taken is refused with its reason, which is logged once; the others
are there all the same.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Final, Protocol

import msgspec
import pyarrow as pa
from msgspec import UNSET

from marketdata.custom.spec import Custom
from marketdata.errors import DistributionError, described, printable

GROUP: Final = "dds.transformations"
"""The entry points that name custom transformations."""

_log: Final = logging.getLogger("marketdata.custom")


class UnknownCustom(DistributionError):
    """There is no such custom transformation here, or it is another one; the text says why."""


class CustomTransformation(Protocol):
    """What a package provides.

    Attributes:
        name: as the entry point.
        description: one sentence for people.
        columns: name -> `text`, `time`, `integer` or `decimal(n)` of the columns that it gives.
        max_rows: most events that it is to be given at once, 8 to 32,768. As the columns it may
            never change under a name.
    """

    name: str
    description: str
    columns: Mapping[str, str]
    max_rows: int

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Further columns of some events.

        Called again with the same events it must give the same: no clock, no randomness, nothing
        kept between calls. Raise whatever says what is wrong: the frame becomes a dead letter.

        Args:
            batch: events of one kind (`marketdata.frames.frame_kind`) with all columns of
                `marketdata.schemas.SEQUENCED_SCHEMAS`, 1 to `max_rows` rows.

        Returns:
            A batch with the columns `instrument`, `epoch` and `sequence` of the events that are
            kept, each at most once and in their order, as they were given, and the declared
            columns: utf8 for `text`, timestamp[ns, UTC] for `time`, int64 for the others, decimals
            in units of 10^-n.
        """


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading gave.

    Attributes:
        by_name: name -> the transformation and its declaration.
        refused: name -> why the entry point of this name gave none.
    """

    by_name: Mapping[str, tuple[CustomTransformation, Custom]]
    refused: Mapping[str, str]


def load(points: Iterable[EntryPoint]) -> Loaded:
    """The transformations of the entry points, in order; whatever fails is refused."""
    by_name: dict[str, tuple[CustomTransformation, Custom]] = {}
    refused: dict[str, str] = {}
    for point in points:
        try:
            if point.name in by_name:
                raise UnknownCustom(f"the name {point.name!r} is taken; choose another")
            given = point.load()()
            by_name[point.name] = given, _declared(point.name, given)
        except BaseException as error:  # noqa: BLE001 - what others install stops nobody
            told = isinstance(error, UnknownCustom)
            reason = printable(str(error)) if told else described(error)
            refused[point.name] = f"{point.value}: {reason}"
    return Loaded(MappingProxyType(by_name), MappingProxyType(refused))


def custom_transformations() -> Mapping[str, Custom]:
    """The declarations of all that are installed here, by name. Loaded when first asked for."""
    return {name: declared for name, (_, declared) in installed().by_name.items()}


def resolved(custom: Custom) -> Custom:
    """What a request asks for, with what the package declares.

    Raises:
        UnknownCustom: it is not installed here, or declares something else than the request says.
    """
    declared = found(custom.name)[1]
    for member in ("columns", "max_rows"):
        asked, has = getattr(custom, member), getattr(declared, member)
        if asked is not UNSET and asked != has:
            raise UnknownCustom(f"{custom.name!r} declares {member} {has!r}, not {asked!r}")
    return declared


def found(name: str) -> tuple[CustomTransformation, Custom]:
    """A custom transformation and its declaration.

    Raises:
        UnknownCustom: there is none; the text lists those that are, and why this one is not.
    """
    there = installed()
    if name not in there.by_name:
        reason = there.refused.get(name)
        because = f" ({reason})" if reason else ""
        raise UnknownCustom(
            f"unknown custom transformation {name!r}{because}; "
            f"installed are: {', '.join(sorted(there.by_name)) or 'none'}"
        )
    return there.by_name[name]


@cache
def installed() -> Loaded:
    """What is installed here."""
    points = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    loaded = load(points)
    for name, reason in loaded.refused.items():
        _log.warning("custom transformation %r is not available: %s", name, reason)
    return loaded


def _declared(name: str, given: CustomTransformation) -> Custom:
    if getattr(given, "name", None) != name:
        raise UnknownCustom(f"its `name` must be {name!r}, as the entry point's")
    if not isinstance(getattr(given, "description", None), str) or not given.description:
        raise UnknownCustom("its `description` must be a text")
    if not callable(getattr(given, "apply", None)):
        raise UnknownCustom("its `apply` must be a method")
    members = {"name": name, "columns": dict(given.columns), "max_rows": given.max_rows}
    try:
        return msgspec.convert(members, Custom)
    except msgspec.ValidationError as error:
        raise UnknownCustom(f"{error}; see marketdata.custom.CustomTransformation") from error
