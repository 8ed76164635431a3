r"""FIX 4.4 market data: one message an event, tag=value, SOH behind every field.

    8=FIX.4.4|9=217|35=X|49=feed|56=*|34=7|52=20260131-14:30:00.123456789|5000=trade|…|10=128|

`marketdata.formats.fix_tags` says which tag holds which column. Prices and sizes are exact
decimals, times UTC with nanoseconds, and null is a tag that is not there. A text may hold anything:
a backslash stands as `\\`, SOH as `\1`, and the empty text, which FIX does not know, as `\0`.
Columns are known by their tags, so a view cannot rename them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketdata.arrays import array_of, lengths_of, run_of
from marketdata.formats import fix_tags as tags
from marketdata.formats.base import FormatError
from marketdata.formats.compression import compressed, decompressed
from marketdata.formats.events import kind_of
from marketdata.formats.fix_reading import SOH, escaped, read_events
from marketdata.formats.fragments import Choice, Constant, Piece, binary, join_rows
from marketdata.formats.text_columns import TextStyle, pieces_of

_STYLE: Final = TextStyle(
    name="FIX",
    null=b"",
    quote_texts=b"",
    quote_numbers=b"",
    special=r"^$|[\\\x01]",
    escape=escaped,
    after=SOH,
    time=lambda iso: iso.replace("-", "").replace("T", "-"),
    zone=b"",
)
_CHECKSUMS: Final = binary(f"10={value:03d}".encode() + SOH for value in range(256))


class FixFormat:
    """Runs of FIX messages; see the module."""

    name: Final = "fix"
    media_type: Final = "application/vnd.fix.tagvalue"
    description: Final = (
        "Each message is a run of FIX 4.4 messages, one an event: 35=W for quotes, f for statuses, "
        "X for all others. Prices and sizes are exact decimals, times UTC with nanoseconds; an "
        "absent tag is null. docs/formats.md has the tags."
    )
    max_rows: Final = 8_192
    renames: Final = False

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """See `Format.encode`."""
        if batch.num_rows == 0:
            return compressed(b"", compression)
        return compressed(run_of(_messages(batch)), compression)

    def encode_each(self, batch: pa.RecordBatch) -> list[bytes]:
        """See `EventFormat.encode_each`: FIX messages."""
        events: list[bytes] = _messages(batch).to_pylist()
        return events

    def decode_one(
        self,
        data: bytes,
        kind: str,  # noqa: ARG002 - it is in the bytes
        schema: pa.Schema | None = None,
    ) -> pa.RecordBatch:
        """See `EventFormat.decode_one`."""
        return self.decode(data, schema)

    def no_events(self) -> bytes:
        """See `Format.no_events`: no message."""
        return b""

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """See `Format.decode`.

        Without `schema` the columns are all of the kind but those that are never null and not
        there: of others an absent tag does not tell whether it is null or was left out.
        """
        return read_events(decompressed(data), schema)


class _Fields:
    """The columns of a batch as fields of FIX messages."""

    def __init__(self, kind: str, batch: pa.RecordBatch) -> None:
        self._kind = kind
        self._rows = batch.num_rows
        self._incremental = tags.MESSAGE_TYPES[kind] == "X"
        self._columns = {
            field.name: (field, column)
            for field, column in zip(batch.schema, batch.columns, strict=True)
        }
        unknown = self._columns.keys() - tags.COLUMNS_OF_KIND[kind]
        if unknown:
            raise FormatError(
                f"columns {sorted(unknown)} have no tag: FIX views cannot rename columns"
            )

    def pieces(self) -> Iterator[Piece]:
        """All fields from 35 to the last in front of 10."""
        yield _field(35, tags.MESSAGE_TYPES[self._kind])
        yield _field(56, tags.TARGET)
        yield from self._values(tags.HEADER)
        yield _field(tags.KIND, self._kind)
        yield from self._values(tags.BODY[self._kind])
        if self._kind == "status":
            yield self._derived(326, "status", tags.STATUSES, tags.UNKNOWN_STATUS)
        else:
            yield from self._entries()

    def _values(self, columns: Mapping[int, str]) -> Iterator[Piece]:
        for tag, name in columns.items():
            if name in self._columns:
                yield from pieces_of(*self._columns[name], replace(_STYLE, before=b"%d=" % tag))

    def _entries(self) -> Iterator[Piece]:
        """268 and the entries that it counts."""
        counts = np.zeros(self._rows, np.int8)
        pieces: list[Piece] = []
        for at, entry in enumerate(tags.ENTRIES[self._kind]):
            head = self._head(entry)
            there = None if self._incremental and at == 0 else self._there(entry)
            if there is None:
                counts += 1
            else:
                counts += there
                head = [Choice(there.view(np.int8), binary([b"", _text_of(head)]))]
            pieces += [*head, *self._values(entry.columns)]
        texts = binary(b"268=%d" % count + SOH for count in range(counts.max() + 1))
        yield Choice(counts, texts) if counts.min() < counts.max() else _field(268, counts[0])
        yield from pieces

    def _there(self, entry: tags.Entry) -> npt.NDArray[np.bool_] | None:
        """On which rows an entry has a value; None: on all."""
        there = np.zeros(self._rows, np.bool_)
        for name in entry.columns.values():
            if name in self._columns:
                column = self._columns[name][1]
                if not column.null_count:
                    return None
                there |= column.is_valid().to_numpy(zero_copy_only=False)
        return there

    def _head(self, entry: tags.Entry) -> list[Piece]:
        """279 and 269."""
        if not self._incremental:
            return [_field(269, entry.type)]
        if self._kind == "book":
            return [self._book_head()]
        new = _field(279, tags.NEW)
        if entry.type:
            return [new, _field(269, entry.type)]
        return [new, self._derived(269, "statistic", tags.STATISTICS, tags.OTHER_ENTRY)]

    def _book_head(self) -> Choice:
        actions = [*tags.ACTIONS.values(), tags.CHANGE]
        sides = [*tags.SIDES.values(), tags.OTHER_ENTRY]
        clear = list(tags.ACTIONS).index("clear")
        texts = [
            _fields((279, action), (269, tags.EMPTY_BOOK if at == clear else side))
            for at, action in enumerate(actions)
            for side in sides
        ]
        codes = self._codes("action", tags.ACTIONS) * len(sides) + self._codes("side", tags.SIDES)
        return Choice(codes, binary(texts))

    def _derived(self, tag: int, name: str, known: Mapping[str, str], other: str) -> Choice:
        """A column's texts as the few values of a standard tag."""
        texts = [_fields((tag, value)) for value in (*known.values(), other)]
        return Choice(self._codes(name, known), binary(texts))

    def _codes(self, name: str, known: Mapping[str, str]) -> npt.NDArray[np.int8]:
        """Which of the known texts each row has; their number for others, null, and no column."""
        if name not in self._columns:
            return np.full(self._rows, len(known), np.int8)
        column = self._columns[name][1]
        numbers = {text: at for at, text in enumerate(known)}
        texts = column.dictionary.to_pylist()
        table = np.array([numbers.get(text, len(known)) for text in (*texts, None)], np.int8)
        codes = column.indices.cast(pa.int32()).fill_null(len(texts))
        return table[codes.to_numpy(zero_copy_only=False)]


def _messages(batch: pa.RecordBatch) -> pa.BinaryArray:
    """The messages: each body behind 8 and 9, in front of 10."""
    body = join_rows(_Fields(kind_of(batch), batch).pieces(), batch.num_rows)
    lengths = pc.cast(pc.binary_length(body), pa.utf8()).view(pa.binary())
    head = pc.binary_join_element_wise(_fields((8, tags.BEGIN_STRING)) + b"9=", lengths, SOH, b"")
    sums = _sums(head) + _sums(body)
    tail = _CHECKSUMS.take(array_of(sums, pa.uint8()))
    return pc.binary_join_element_wise(head, body, tail, b"")


def _sums(texts: pa.BinaryArray) -> npt.NDArray[np.uint8]:
    """The sum of each text's bytes modulo 256; no text may be empty."""
    run = np.frombuffer(run_of(texts), np.uint8)
    starts = np.zeros(len(texts), np.int64)
    np.cumsum(lengths_of(texts)[:-1], out=starts[1:])
    return np.add.reduceat(run, starts, dtype=np.uint8)


def _field(tag: int, value: object) -> Constant:
    return Constant(_fields((tag, value)))


def _fields(*fields: tuple[int, object]) -> bytes:
    return b"".join(f"{tag}={value}".encode() + SOH for tag, value in fields)


def _text_of(constants: list[Piece]) -> bytes:
    return b"".join(piece.text for piece in constants if isinstance(piece, Constant))
