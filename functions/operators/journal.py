"""The journal of held rows: which rows of the inputs the log does not have yet.

Rows that wait for others leave in a later frame than their own input's. Every frame of the log
therefore says which rows began to wait before it (`held`) and which of the waiting ones it holds
(`released`); with that the log alone tells, after any crash, what is still to be sent of inputs at
or before its position: nothing but the rows that wait. Both are message properties, absent when
there is nothing to say.
"""

import base64
import binascii
import struct
import zlib
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from marketdata.errors import InvalidFrame

HELD_PROPERTY: Final = "held"
RELEASED_PROPERTY: Final = "released"

Places = dict[int, set[int]]
"""Rows by the position of their input."""

_HEAD: Final = struct.Struct("<qH")


def encode_places(places: Mapping[int, Iterable[int]]) -> str:
    """Rows by input position, as text.

    >>> decode_places(encode_places({7: {3, 1}}))
    {7: {1, 3}}
    """
    parts = []
    for position, rows in sorted(places.items()):
        numbers = np.sort(np.fromiter(rows, dtype=np.uint16))
        parts += [_HEAD.pack(position, len(numbers)), numbers.tobytes()]
    return base64.b85encode(zlib.compress(b"".join(parts), 1)).decode("ascii")


def decode_places(text: str) -> Places:
    """What `encode_places` wrote.

    Raises:
        InvalidFrame: the text is none of it.
    """
    places: Places = {}
    try:
        data = zlib.decompress(base64.b85decode(text))
        offset = 0
        while offset < len(data):
            position, count = _HEAD.unpack_from(data, offset)
            offset += _HEAD.size
            places[position] = set(np.frombuffer(data, np.uint16, count, offset).tolist())
            offset += 2 * count
    except (ValueError, binascii.Error, zlib.error, struct.error) as error:
        raise InvalidFrame("undecodable", f"the journal of a frame is damaged: {error}") from error
    return places


def apply_journal(places: Places, properties: Mapping[str, str]) -> None:
    """Go on behind a frame of the log: what waits after it."""
    if HELD_PROPERTY in properties:
        for position, rows in decode_places(properties[HELD_PROPERTY]).items():
            places.setdefault(position, set()).update(rows)
    if RELEASED_PROPERTY in properties:
        for position, rows in decode_places(properties[RELEASED_PROPERTY]).items():
            left = places.get(position, set()) - rows
            if left:
                places[position] = left
            else:
                places.pop(position, None)
