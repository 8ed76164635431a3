"""Cutting a long run of events in a row format into frames that the format decodes.

Events keep their order. No more than a frame, and what was read with it, is in memory.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import BinaryIO, Final

from marketdata.formats import FormatError
from marketdata.formats.fix_reading import message_end

_CHUNK_BYTES: Final = 1 << 20


def cut(file: BinaryIO, format_name: str, rows: int) -> Iterator[bytes]:
    """The frames of a file, each of at most `rows` events; Avro's blocks stay as they are.

    MessagePack does not tell where an event ends before it is read: such a file is one frame.

    Raises:
        FormatError: the file is not of the format, or ends within an event.
    """
    return _CUTTERS[format_name](file, rows)


def _lines(file: BinaryIO, rows: int) -> Iterator[bytes]:
    while frame := b"".join(islice(file, rows)):
        yield _ended(frame)


def _csv(file: BinaryIO, rows: int) -> Iterator[bytes]:
    """A line ends an event when no quote is open."""
    header = file.readline()
    while True:
        lines: list[bytes] = []
        quotes = 0
        for line in file:
            lines.append(line)
            quotes += line.count(b'"')
            if len(lines) >= rows and quotes % 2 == 0:
                break
        if not lines:
            return
        yield _ended(header + b"".join(lines))


def _ended(lines: bytes) -> bytes:
    """Lines of which the last one ends, too."""
    return lines if lines.endswith(b"\n") else lines + b"\n"


def _by_ends(
    end_of: Callable[[bytes, int], int | None],
) -> Callable[[BinaryIO, int], Iterator[bytes]]:
    """Cuts by a function that tells where the event at a place ends; None: not to be seen yet."""

    def cutter(file: BinaryIO, rows: int) -> Iterator[bytes]:
        data, first, at, count = b"", 0, 0, 0
        while True:
            end = end_of(data, at)
            if end is not None and end <= len(data):
                at, count = end, count + 1
                if count == rows:
                    yield data[first:at]
                    first, count = at, 0
                continue
            more = file.read(_CHUNK_BYTES)
            if not more:
                break
            data, at, first = data[first:] + more, at - first, 0
        if at < len(data):
            raise FormatError("the last event ends early")
        if first < at:
            yield data[first:at]

    return cutter


def _protobuf_end(data: bytes, at: int) -> int | None:
    size = shift = 0
    while at < len(data):
        size |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return at + size
        shift += 7
        if shift > 63:
            raise FormatError("the length of a message is broken")
    return None


def _whole(file: BinaryIO, rows: int) -> Iterator[bytes]:  # noqa: ARG001
    yield file.read()


def _avro(file: BinaryIO, rows: int) -> Iterator[bytes]:  # noqa: ARG001
    """Each block as a file of its own, behind the header."""
    reader = _AvroReader(file)
    reader.take(4)
    while (entries := reader.long()) != 0:
        if entries < 0:
            reader.long()
        for _ in range(2 * abs(entries)):
            reader.take(reader.long())
    sync = reader.take(16)
    header = reader.taken()
    while file.peek(1):  # type: ignore[attr-defined]
        reader.long()
        reader.take(reader.long())
        if reader.take(16) != sync:
            raise FormatError("a block does not end with the file's marker")
        yield header + reader.taken()


class _AvroReader:
    """Reads the parts of an Avro container and remembers their bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._parts: list[bytes] = []

    def take(self, size: int) -> bytes:
        data = self._file.read(size) if size >= 0 else b""
        if len(data) != size:
            raise FormatError("not an Avro file, or one that ends early")
        self._parts.append(data)
        return data

    def long(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise FormatError("not an Avro file: a number of more than 64 bits")

    def taken(self) -> bytes:
        """The bytes since the last call."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


_CUTTERS: Final[Mapping[str, Callable[[BinaryIO, int], Iterator[bytes]]]] = {
    "json": _lines,
    "csv": _csv,
    "fix": _by_ends(message_end),
    "protobuf": _by_ends(_protobuf_end),
    "avro": _avro,
    "msgpack": _whole,
}
