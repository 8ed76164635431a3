"""Records that a publisher process writes for its parent: a head of fixed size, then bytes."""

import struct
from collections.abc import Iterator
from typing import IO, Final, NamedTuple

ATTEMPT: Final = b"A"
"""A call of `publish` is about to be made: its number, and the batch."""
CONFIRMED: Final = b"C"
"""A frame is stored: partition, sequence id, and the batch."""
FLUSHED: Final = b"F"
"""Everything up to a call is stored: its number, and the sequence ids as JSON."""

_HEAD: Final = struct.Struct("<ciqI")


class Record(NamedTuple):
    """One record; what `number` and `data` are depends on `kind`."""

    kind: bytes
    partition: int
    number: int
    data: bytes


def write_record(stream: IO[bytes], record: Record) -> None:
    """Write one record and push it out: a process that is killed next has still told it."""
    head = _HEAD.pack(record.kind, record.partition, record.number, len(record.data))
    stream.write(head + record.data)
    stream.flush()


def read_records(stream: IO[bytes]) -> Iterator[Record]:
    """All whole records until the stream ends; one cut short by a kill was never told."""
    while len(head := stream.read(_HEAD.size)) == _HEAD.size:
        kind, partition, number, size = _HEAD.unpack(head)
        data = stream.read(size)
        if len(data) < size:
            return
        yield Record(kind, partition, number, data)
