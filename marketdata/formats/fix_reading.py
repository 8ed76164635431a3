"""Reading FIX messages back to a batch; the other half of `marketdata.formats.fix`.

Length and checksum of every message are checked. Tags that hold no column are passed over.
"""

import re
from calendar import timegm
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from marketdata.formats import fix_tags as tags
from marketdata.formats.base import FormatError
from marketdata.formats.events import batch_of, schema_of
from marketdata.schemas import COLUMNS, SEQUENCED_SCHEMAS, decimal_scale

SOH: Final = b"\x01"

_ESCAPES: Final = {"\\": "\\\\", "\x01": "\\1"}
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_PLAIN: Final = {"\\": "\\", "1": "\x01", "0": ""}
_START: Final = re.compile(rb"8=%s\x019=([0-9]{1,9})\x01" % re.escape(tags.BEGIN_STRING.encode()))
_END: Final = re.compile(rb"10=([0-9]{3})\x01")
_START_BYTES: Final = len(f"8={tags.BEGIN_STRING}|9=|") + 9
_END_BYTES: Final = len("10=000|")
_TIME: Final = re.compile(r"([0-9]{8}-[0-9]{2}:[0-9]{2}:[0-9]{2})\.([0-9]{9})")
_WHOLE: Final = re.compile(r"-?[0-9]{1,20}")
_DECIMAL: Final = re.compile(r"(-?)([0-9]{1,20})(?:\.([0-9]{1,9}))?")

_Message = list[tuple[int, str]]


def escaped(text: str) -> str:
    """A text as it stands in a field."""
    return "".join(_ESCAPES.get(character, character) for character in text) or "\\0"


def read_events(data: bytes, schema: pa.Schema | None) -> pa.RecordBatch:
    """The batch that was written as a run of messages.

    Args:
        data: the run, not compressed.
        schema: of the batch; None: all columns of the kind but those that are never null and not
            there.

    Raises:
        FormatError: the bytes are no such run, or its events are of several kinds.
    """
    kinds: set[str] = set()
    events = []
    for message in _messages(data):
        kind = next((value for tag, value in message if tag == tags.KIND), "")
        if kind not in tags.ENTRIES:
            raise FormatError(f"a message is no event of a known kind: {tags.KIND}={kind}")
        kinds.add(kind)
        events.append(_event(kind, message))
    if len(kinds) != 1:
        raise FormatError(f"a frame holds events of one kind, found {sorted(kinds)}")
    kind = kinds.pop()
    wanted = schema
    if wanted is None:
        whole = SEQUENCED_SCHEMAS[kind]
        wanted = schema_of(kind, [f.name for f in whole if f.nullable or f.name in events[0]])
    unknown = [name for name in wanted.names if name not in tags.COLUMNS_OF_KIND[kind]]
    if unknown:
        raise FormatError(f"columns {unknown} have no tag: FIX views cannot rename columns")
    return batch_of([dict.fromkeys(wanted.names) | event for event in events], wanted)


def _messages(data: bytes) -> Iterator[_Message]:
    at = 0
    while at < len(data):
        start = _START.match(data, at)
        if start is None:
            raise FormatError(f"no FIX message begins at byte {at}")
        end = start.end() + int(start[1])
        trailer = _END.match(data, end)
        if trailer is None:
            raise FormatError(f"the message at byte {at} does not end where 9={int(start[1])} says")
        if int(trailer[1]) != sum(data[at:end]) % 256:
            raise FormatError(f"the message at byte {at} has another checksum than it says")
        yield _fields(data[start.end() : end])
        at = trailer.end()


def message_end(data: bytes, at: int) -> int | None:
    """Where the message at a place ends, even if behind the data; None: too little to tell.

    Raises:
        FormatError: no message begins there.
    """
    start = _START.match(data, at)
    if start is not None:
        return start.end() + int(start[1]) + _END_BYTES
    if len(data) - at >= _START_BYTES:
        raise FormatError("no FIX message begins where one should")
    return None


def _fields(body: bytes) -> _Message:
    fields = []
    for field in body.split(SOH)[:-1]:
        tag, equals, value = field.partition(b"=")
        if not equals or not tag.isdigit():
            raise FormatError(f"a field is not of the form tag=value: {field[:40]!r}")
        try:
            fields.append((int(tag), value.decode()))
        except UnicodeDecodeError as error:
            raise FormatError(f"field {int(tag)} is not UTF-8: {error}") from error
    return fields


def _event(kind: str, message: _Message) -> dict[str, Any]:
    """The columns that a message has tags of."""
    names: Mapping[int, str] = {**tags.HEADER, **tags.BODY[kind]}
    entries = tags.ENTRIES[kind]
    by_type = {entry.type: entry.columns for entry in entries}
    event: dict[str, Any] = {}
    for tag, value in message:
        if tag == 269:
            names = entries[0].columns if len(entries) == 1 else by_type.get(value, {})
        elif tag in names:
            name = names[tag]
            try:
                event[name] = _reader(COLUMNS[name])(value)
            except (ValueError, OverflowError) as error:
                raise FormatError(f"column {name!r}: {tag}={value[:40]}: {error}") from error
    return event


def _reader(field: pa.Field) -> Callable[[str], Any]:
    scale = decimal_scale(field)
    if scale is not None:
        return lambda text: _unscaled(text, scale)
    if pa.types.is_timestamp(field.type):
        return _nanoseconds
    if pa.types.is_integer(field.type):
        return _whole
    return float if pa.types.is_floating(field.type) else _unescaped


def _whole(text: str) -> int:
    if _WHOLE.fullmatch(text) is None:
        raise ValueError("not a whole number")
    return int(text)


def _unscaled(text: str, scale: int) -> int:
    found = _DECIMAL.fullmatch(text)
    if found is None:
        raise ValueError("not a decimal number")
    sign, whole, fraction = found[1], found[2], found[3] or ""
    if len(fraction) > scale:
        raise ValueError(f"more than {scale} digits behind the point")
    return int(sign + whole + fraction.ljust(scale, "0"))


def _nanoseconds(text: str) -> int:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError("not of the form 20260131-14:30:00.123456789")
    seconds = timegm(datetime.strptime(found[1], "%Y%m%d-%H:%M:%S").timetuple())  # noqa: DTZ007
    return seconds * 1_000_000_000 + int(found[2])


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(_plain, text)


def _plain(found: re.Match[str]) -> str:
    if found[1] not in _PLAIN:
        raise ValueError(f"unknown escape {found[0]!r}")
    return _PLAIN[found[1]]
