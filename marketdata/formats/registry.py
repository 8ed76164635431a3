"""Which formats there are: the built-in ones, then those that entry points name.

    [project.entry-points."dds.formats"]
    tsv = "tsv_format:TsvFormat"

An entry point names a class, or another callable without arguments, that gives a `Format` of the
entry point's name. One that cannot be loaded, keeps the contract not, or takes a name that is taken
is refused with its reason, which is logged once; the others are there all the same.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from threading import Lock, local
from types import MappingProxyType
from typing import Any, Final

from marketdata.formats.arrow import ArrowFormat
from marketdata.formats.avro import AvroFormat
from marketdata.formats.base import EventFormat, Format, FormatError
from marketdata.formats.csv import CsvFormat
from marketdata.formats.json import JsonFormat
from marketdata.formats.messagepack import MessagePackFormat
from marketdata.formats.missing import MissingFormat
from marketdata.formats.protobuf import ProtobufFormat

GROUP: Final = "dds.formats"
"""The entry points that name formats."""

BUILT_IN: Final[tuple[Format, ...]] = (
    ArrowFormat(),
    JsonFormat(),
    AvroFormat(),
    ProtobufFormat(),
    CsvFormat(),
    MessagePackFormat(),
)

SHIPPED: Final = (EntryPoint("fix", "marketdata.formats.fix:FixFormat", GROUP),)
"""Entry points of this project. They stand here and not in `pyproject.toml` because the functions'
bundle and the images hold its sources without the metadata of an installed distribution."""

MOST_ROWS: Final = 32_768
"""No frame has more events."""

LEAST_ROWS: Final = 8
"""No message has room for fewer: the pieces of the longest frame take 4,096 places in the log."""

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MEMBERS: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = MappingProxyType(
    {
        "media_type": ("a text", lambda value: isinstance(value, str) and bool(value)),
        "description": ("a text", lambda value: isinstance(value, str) and bool(value)),
        "max_rows": (
            f"a whole number from {LEAST_ROWS} to {MOST_ROWS:,}",
            lambda value: type(value) is int and LEAST_ROWS <= value <= MOST_ROWS,
        ),
        "renames": ("True or False", lambda value: isinstance(value, bool)),
        "encode": ("a method", callable),
        "decode": ("a method", callable),
        "no_events": ("a method", callable),
    }
)
"""What a format has -> what that must be, and whether a value is."""

_log: Final = logging.getLogger("marketdata.formats")
_loading: Final = Lock()
_this_thread: Final = local()


@dataclass(frozen=True, slots=True)
class Formats:
    """What loading gave.

    Attributes:
        by_name: name -> format, the built-in ones first.
        refused: name -> why the entry point of this name gave no format.
    """

    by_name: Mapping[str, Format]
    refused: Mapping[str, str]


_BUILT_IN_ONLY: Final = Formats(
    MappingProxyType({format_.name: format_ for format_ in BUILT_IN}), MappingProxyType({})
)


def load_formats(built_in: Iterable[Format], points: Iterable[EntryPoint]) -> Formats:
    """The built-in formats and those of the entry points, in order; whatever fails is refused."""
    by_name = {format_.name: format_ for format_ in built_in}
    refused: dict[str, str] = {}
    for point in points:
        try:
            by_name[point.name] = _loaded(point, by_name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - what others install stops nobody
            reason = str(error) if isinstance(error, FormatError) else _told(error)
            refused[point.name] = f"{point.value}: {reason}"
    return Formats(MappingProxyType(by_name), MappingProxyType(refused))


def formats() -> Mapping[str, Format]:
    """All that are installed here, by name. Loaded when first asked for.

    A package that asks while it is loaded is told of the built-in ones.
    """
    return _installed().by_name


def get_format(name: str) -> Format:
    """The format of a name.

    Raises:
        FormatError: there is none; the text lists those that are, and why this one is not.
    """
    installed = _installed()
    found = installed.by_name.get(name)
    if found is None:
        reason = installed.refused.get(name)
        because = f" ({reason})" if reason else ""
        there_are = ", ".join(installed.by_name)
        raise FormatError(f"unknown format {name!r}{because}; formats are: {there_are}")
    return found


def event_format(name: str) -> EventFormat:
    """A format that can write one event a message.

    Raises:
        FormatError: there is none of this name, or it cannot.
    """
    found = get_format(name)
    if isinstance(found, EventFormat):
        return found
    raise FormatError(f"{name} messages are frames of many events")


def format_of_view(name: str) -> Format:
    """The format of a view, which was accepted where it is installed.

    Where it is not, a format that refuses every frame, so that other views go on.
    """
    try:
        return get_format(name)
    except FormatError as error:
        return MissingFormat(name, str(error))


def _installed() -> Formats:
    if getattr(_this_thread, "is_loading", False):
        return _BUILT_IN_ONLY
    with _loading:
        _this_thread.is_loading = True
        try:
            return _load_installed()
        finally:
            _this_thread.is_loading = False


@cache
def _load_installed() -> Formats:
    found = sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value))
    loaded = load_formats(BUILT_IN, (*SHIPPED, *found))
    for name, reason in loaded.refused.items():
        _log.warning("format %r is not available: %s", name, reason)
    return loaded


def _loaded(point: EntryPoint, taken: Mapping[str, Format]) -> Format:
    if point.name in taken:
        raise FormatError(f"the name {point.name!r} is taken; choose another")
    if not _NAME.fullmatch(point.name):
        raise FormatError(f"{point.name!r} is no name: a-z, 0-9, - and _, at most 32, a-z first")
    given = point.load()()
    if getattr(given, "name", None) != point.name:
        raise FormatError(f"its `name` must be {point.name!r}, as the entry point's")
    for member, (wanted, will_do) in _MEMBERS.items():
        if not will_do(getattr(given, member, None)):
            raise FormatError(f"its `{member}` must be {wanted}; see marketdata.formats.Format")
    if not isinstance(given.no_events(), bytes):
        raise FormatError("its `no_events()` must give bytes")
    format_: Format = given
    return format_


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
