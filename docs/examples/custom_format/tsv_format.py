r"""A format of one's own: tab-separated values, every number an integer in the column's unit.

The first line names the columns, the next ones are events. Null is `\N`; what would break a line
stands as `%09`, `%0A`, `%0D`, `%25` and `%5C` in texts. `pip install` this folder into the control
plane's environment and into that of the functions, and subscriptions can say `"format": "tsv"`.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from marketdata.formats import FormatError
from marketdata.formats.compression import compressed, decompressed
from marketdata.formats.events import kind_of, schema_of

ESCAPES = {"%": "%25", "\t": "%09", "\n": "%0A", "\r": "%0D", "\\": "%5C"}


class TsvFormat:
    """Tab-separated values; see the module."""

    name = "tsv"
    media_type = "text/tab-separated-values; charset=utf-8"
    description = (
        "Each message is a line of the kind and the columns' names, then one event a line. Prices "
        "are integers in units of 1e-9, sizes in units of 1e-8, times nanoseconds; \\N is null."
    )
    max_rows = 8_192
    renames = True

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """The batch as text; columns at a time, never event by event."""
        header = "\t".join([kind_of(batch), *batch.schema.names]) + "\n"
        if batch.num_rows == 0:
            return compressed(header.encode(), compression)
        lines = pc.binary_join_element_wise(*map(_texts, batch.columns), "\t")
        whole = pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines)
        text = header + pc.binary_join(whole, "\n")[0].as_py() + "\n"
        return compressed(text.encode(), compression)

    def no_events(self) -> bytes:
        """Nothing: there is no line."""
        return b""

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """The batch that was encoded; renamed columns need their schema."""
        text = decompressed(data)
        try:
            kind, *names = text[: text.index(b"\n")].decode().split("\t")
            wanted = schema if schema is not None else schema_of(kind, names)
            table = pyarrow.csv.read_csv(
                pa.BufferReader(text),
                read_options=pyarrow.csv.ReadOptions(
                    column_names=names, skip_rows=1, block_size=len(text) + 1
                ),
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter="\t", quote_char=False, ignore_empty_lines=False
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.utf8()),
                    null_values=["\\N"],
                    strings_can_be_null=True,
                ),
            ).combine_chunks()
            columns = [_column(table.column(field.name), field.type) for field in wanted]
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise FormatError(f"not a TSV frame: {error}") from error
        return pa.RecordBatch.from_arrays(columns, schema=wanted)


def _texts(column: pa.Array) -> pa.StringArray:
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    text = pc.cast(column, pa.utf8())
    if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
        for special, escaped in ESCAPES.items():
            text = pc.replace_substring(text, special, escaped)
    return text.fill_null("\\N")


def _column(read: pa.ChunkedArray, type_: pa.DataType) -> pa.Array:
    text = pa.concat_arrays(read.chunks)
    if pa.types.is_timestamp(type_):
        return pc.cast(text, pa.int64()).view(type_)
    if not pa.types.is_dictionary(type_) and not pa.types.is_string(type_):
        return pc.cast(text, type_)
    for special, escaped in reversed(ESCAPES.items()):
        text = pc.replace_substring(text, escaped, special)
    return text.dictionary_encode().cast(type_) if pa.types.is_dictionary(type_) else text
