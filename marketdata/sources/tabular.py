"""Parquet and CSV files as events, by a column mapping, streamed.

Columns of the contract come from the file's column of the mapped name, else from a constant, else
from a column of the same name; the others are null. `source` defaults to the file's name without
endings. `source_sequence`, when no column provides it, counts each instrument's events; it stays
null when a column names the sources. CSV (also gzip, bz2 and zstd) is read as text, so prices keep
every digit written; floats of Parquet are taken as their shortest decimal text.

Errors name the file, its column, the row (from 1; in CSV the header does not count) and what
stands there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from marketdata.schemas import INGEST_SCHEMAS, KEY_COLUMNS, PRICE_SCALE, decimal_scale, is_symbol
from marketdata.sources.batches import MAX_BATCH_ROWS, Column, SourceNumbering, assemble, symbols
from marketdata.sources.columns import fixed_point, is_text, plain, power_of_ten, timestamps_ns
from marketdata.sources.errors import ColumnError, SourceError
from marketdata.sources.mapping import REQUIRED, ColumnMapping

_CSV_BLOCK_BYTES: Final = 1 << 18


class TabularFile:
    """One Parquet or CSV file; iterating yields batches of events.

    Args:
        path: of the file; Parquet is recognised by content, everything else is read as CSV.
        mapping: which of its columns are which.
        numbering: continues the source sequences of files read before under the same source;
            a second iteration continues those of the first.

    Raises:
        SourceError: at once when the file cannot be opened or lacks a mapped column; while
            iterating when a value cannot be converted.
    """

    def __init__(
        self,
        path: str | Path,
        mapping: ColumnMapping,
        *,
        numbering: SourceNumbering | None = None,
    ) -> None:
        self.path = Path(path)
        self.mapping = mapping
        self._numbering = numbering or SourceNumbering()
        self._schema = INGEST_SCHEMAS[mapping.kind]
        try:
            with self.path.open("rb") as file:
                self._is_parquet = file.read(4) == b"PAR1"
            self._names = self._header()
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{self.path}: cannot be read: {error}") from error
        self._columns = self._resolve()
        self.source = mapping.constants.get("source", self.path.name.partition(".")[0])

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        batches = self._events()
        if self.mapping.order == "sort":
            batches = self._sorted(batches)
        elif self.mapping.order == "check":
            batches = self._in_order(batches)
        if "source_sequence" in self._columns or "source" in self._columns:
            return batches
        return (self._numbered(batch) for batch in batches)

    def _header(self) -> list[str]:
        if self._is_parquet:
            return list(pyarrow.parquet.read_schema(self.path).names)
        with self._open_csv() as reader:
            return list(reader.schema.names)

    def _open_csv(self, names: list[str] | None = None) -> pyarrow.csv.CSVStreamingReader:
        text = dict.fromkeys(names or (), pa.string())
        return pyarrow.csv.open_csv(
            pa.input_stream(str(self.path), compression="detect"),
            read_options=pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(delimiter=self.mapping.delimiter),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=text, include_columns=list(text) or None, strings_can_be_null=False
            ),
        )

    def _resolve(self) -> dict[str, str]:
        """Column of the contract -> column of the file."""
        mapping = self.mapping
        for ours, theirs in mapping.columns.items():
            if theirs not in self._names:
                raise SourceError(
                    f"{self.path}: has no column {theirs!r} (mapped to {ours});"
                    f" it has: {', '.join(self._names)}"
                )
        columns = {
            name: name
            for name in self._schema.names
            if name in self._names and name not in mapping.constants
        } | mapping.columns
        for name in REQUIRED:
            if name not in columns and name not in mapping.constants:
                raise SourceError(
                    f"{self.path}: nothing provides {name}; map one of its columns"
                    f" ({', '.join(self._names)}) to it"
                    + ("" if name == "ts_event" else f" or set it ({name}=…)")
                )
        return columns

    def _rows(self) -> Iterator[pa.RecordBatch]:
        theirs = list(dict.fromkeys(self._columns.values()))
        try:
            if self._is_parquet:
                with pyarrow.parquet.ParquetFile(self.path) as file:
                    yield from file.iter_batches(batch_size=MAX_BATCH_ROWS, columns=theirs)
                return
            with self._open_csv(theirs) as reader:
                for block in reader:
                    for start in range(0, block.num_rows, MAX_BATCH_ROWS):
                        yield block.slice(start, MAX_BATCH_ROWS)
        except (OSError, pa.ArrowException) as error:
            raise SourceError(f"{self.path}: cannot be read further: {error}") from error

    def _events(self) -> Iterator[pa.RecordBatch]:
        row = 0
        for rows in self._rows():
            if rows.num_rows:
                yield self._convert(rows, row)
                row += rows.num_rows

    def _convert(self, rows: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
        columns: dict[str, Column] = {"source": self.source, **self.mapping.constants}
        for ours, theirs in self._columns.items():
            try:
                columns[ours] = self._column(self._schema.field(ours), plain(rows.column(theirs)))
            except ColumnError as error:
                place = f"column {theirs!r} (for {ours})"
                if error.row is not None:
                    place += f", row {first_row + error.row + 1}"
                raise SourceError(f"{self.path}: {place}: {error.reason}") from error
        return assemble(self.mapping.kind, columns, rows.num_rows)

    def _column(self, field: pa.Field, values: pa.Array) -> pa.Array:
        if is_text(values.type):
            text = pc.utf8_trim_whitespace(values)
            values = pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text)
        if field.name in KEY_COLUMNS and values.null_count:
            row = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
            raise ColumnError("is empty; every event needs a value here", row)
        if pa.types.is_timestamp(field.type):
            return timestamps_ns(values, self.mapping.time_unit, self.mapping.timezone)
        scale = decimal_scale(field)
        if scale is not None:
            unit = self.mapping.price_unit if scale == PRICE_SCALE else self.mapping.size_unit
            return fixed_point(values, scale, power_of_ten(unit))
        if is_symbol(field):
            return symbols(_cast(values, pa.string()))
        return _cast(values, field.type)

    def _in_order(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        last, row = None, 0
        for batch in batches:
            times = batch.column("ts_event").view(pa.int64()).to_numpy()
            before = np.concatenate(([times[0] if last is None else last], times[:-1]))
            early = np.flatnonzero(times < before)
            if len(early):
                raise SourceError(
                    f"{self.path}: row {row + int(early[0]) + 1} is earlier than the row before"
                    " it; use order `sort` (holds the file in memory) or `file` (as it stands)"
                )
            last, row = times[-1], row + len(times)
            yield batch

    def _numbered(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        at = batch.schema.get_field_index("source_sequence")
        numbers = self._numbering.number(batch.column("instrument"))
        return batch.set_column(at, batch.schema.field(at), numbers)

    def _sorted(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # Symbols become text meanwhile: a whole file may have more than a dictionary can hold.
        pieces = [
            pa.table([plain(column) for column in batch.columns], batch.schema.names)
            for batch in batches
        ]
        if not pieces:
            return
        table = pa.concat_tables(pieces)
        order = np.argsort(table["ts_event"].cast(pa.int64()).to_numpy(), kind="stable")
        for start in range(0, len(order), MAX_BATCH_ROWS):
            part = table.take(pa.array(order[start : start + MAX_BATCH_ROWS]))
            columns: dict[str, Column] = {name: plain(part[name]) for name in part.column_names}
            yield assemble(self.mapping.kind, columns, part.num_rows)


def _cast(values: pa.Array, target: pa.DataType) -> pa.Array:
    try:
        return values.cast(target)
    except pa.ArrowException as error:
        raise ColumnError(f"{error}; {target} is needed") from error
