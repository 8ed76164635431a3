"""CSV (RFC 4180, but lines end with a newline alone): a header, then one event a line.

`kind` comes first, as in JSON. Texts stand in double quotes, everything else does not, and null is
an empty field without quotes: "" is an empty text. `marketdata.formats.text_columns` says how
values are written.
"""

from typing import Final

import pyarrow as pa
import pyarrow.csv

from marketdata.formats.base import FormatError
from marketdata.formats.compression import compressed, decompressed
from marketdata.formats.events import kind_of, schema_of
from marketdata.formats.fragments import Constant, Piece, join_pieces, join_rows
from marketdata.formats.text_columns import TextStyle, pieces_of
from marketdata.formats.text_reading import column_of, transport_schema

_STYLE: Final = TextStyle(
    name="CSV",
    null=b"",
    quote_texts=b'"',
    quote_numbers=b"",
    special='"',
    escape=lambda text: text.replace('"', '""'),
)


class CsvFormat:
    """Comma-separated values; see the module."""

    name: Final = "csv"
    media_type: Final = "text/csv; charset=utf-8; header=present"
    description: Final = (
        "Each message is a header and one event a line. Texts are quoted, null is an empty "
        "field; prices and sizes are exact decimals, times ISO 8601 with nanoseconds."
    )
    max_rows: Final = 8_192
    renames: Final = True

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """See `Format.encode`. UTF-8; every line, the last too, ends with a newline."""
        header = _header(batch)
        if batch.num_rows == 0:
            return compressed(header, compression)
        return compressed(header + join_pieces(_lines(batch), batch.num_rows), compression)

    def encode_each(self, batch: pa.RecordBatch) -> list[bytes]:
        """See `EventFormat.encode_each`: a header and a line."""
        pieces = [Constant(_header(batch)), *_lines(batch)]
        events: list[bytes] = join_rows(pieces, batch.num_rows).to_pylist()
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
        """See `Format.no_events`: no line."""
        return b""

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """See `Format.decode`. Without `schema` the columns must have their own names."""
        text = decompressed(data)
        try:
            names = text[: text.index(b"\n")].decode().split(",")
            if names[:1] != ["kind"]:
                raise FormatError("the first column of a CSV frame is 'kind'")
            kind = text[text.index(b"\n") + 1 :].split(b",", 1)[0].strip(b'"').decode()
            wanted = schema if schema is not None else schema_of(kind, names[1:])
            table = pyarrow.csv.read_csv(
                pa.BufferReader(text),
                read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=len(text) + 1),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=transport_schema(wanted),
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
            if table.column("kind").unique().to_pylist() != [kind]:
                raise FormatError("a frame holds events of one kind")
            columns = [column_of(table.column(field.name), field) for field in wanted]
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise FormatError(f"not a CSV frame: {error}") from error
        return pa.RecordBatch.from_arrays(columns, schema=wanted)


def _header(batch: pa.RecordBatch) -> bytes:
    return ",".join(["kind", *batch.schema.names]).encode() + b"\n"


def _lines(batch: pa.RecordBatch) -> list[Piece]:
    pieces: list[Piece] = [Constant(f'"{kind_of(batch)}"'.encode())]
    for field, column in zip(batch.schema, batch.columns, strict=True):
        pieces += [Constant(b","), *pieces_of(field, column, _STYLE)]
    return [*pieces, Constant(b"\n")]
