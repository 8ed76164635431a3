"""Databento DBN files as events: trades, mbp-1 (also tbbo) and ohlcv, plain or zstd.

| records | events |
| --- | --- |
| trades | `trade`; side is the aggressor's |
| mbp-1, tbbo | `quote`: the top of the book that each record carries, one event a record |
| ohlcv-1s, -1m, -1h, -1d, -eod | `bar` |

`databento-dbn` reads the metadata, names publishers and checks versions; the records themselves
are mapped to NumPy in bulk with the layouts that the package publishes. DBN prices are in units
of 1e-9 already and pass unchanged. Undefined prices, sizes and sides are null. Record flags
(`F_LAST`, `F_TOB`, …) become `quality_flags`.

Events come in the order of the file, which is the order of receipt (`ts_recv`): `ts_event` may
step back by as much as the venues themselves did. Symbols come from the metadata and from symbol
mapping records in the stream.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import databento_dbn
import numpy as np
import pyarrow as pa

from marketdata.sources.batches import Column, SourceNumbering, assemble
from marketdata.sources.dbn_records import (
    RecordError,
    Records,
    SymbolTable,
    bar_columns,
    quote_columns,
    times_ns,
    trade_columns,
    venues,
)
from marketdata.sources.errors import SourceError

BATCH_ROWS: Final = 16_384

_MESSAGE_OF_RTYPE: Final[dict[int, Any]] = {
    0x00: databento_dbn.TradeMsg,
    0x01: databento_dbn.MBP1Msg,
    **dict.fromkeys((0x11, 0x20, 0x21, 0x22, 0x23, 0x24), databento_dbn.OHLCVMsg),
}
_KIND_OF_MESSAGE: Final = {
    databento_dbn.TradeMsg: "trade",
    databento_dbn.MBP1Msg: "quote",
    databento_dbn.OHLCVMsg: "bar",
}
_SYMBOL_MAPPING: Final = 0x16
# Records of a live stream that hold no market data: errors, symbol mappings, system messages.
_CONTROL_RTYPES: Final = frozenset({0x15, _SYMBOL_MAPPING, 0x17})


class DbnFile:
    """One DBN file; iterating yields batches of events.

    Args:
        path: of the file; `.zst` is recognised by content.
        source: source name of the events; the dataset and schema when None
            (`XNAS.ITCH.trades`).
        region: of all events, or None.
        numbering: continues the source sequences of files read before under the same source;
            a second iteration continues those of the first.
        unmapped_ids: name an instrument without a symbol by its number instead of refusing it.

    Raises:
        SourceError: at once when the file cannot be opened or is no DBN; while iterating when
            a record cannot be told or kept.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        source: str | None = None,
        region: str | None = None,
        numbering: SourceNumbering | None = None,
        unmapped_ids: bool = False,
    ) -> None:
        self.path = Path(path)
        with self._open() as stream:
            self.metadata = self._read_metadata(stream)
        schema = self.metadata.schema
        self.source = source or ".".join(
            str(part) for part in (self.metadata.dataset or "dbn", schema) if part
        )
        self._region = region
        self._numbering = numbering or SourceNumbering()
        self._unmapped_ids = unmapped_ids
        self._symbols = SymbolTable(self.metadata, unmapped_ids)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self._symbols = SymbolTable(self.metadata, self._unmapped_ids)
        for records in self._runs():
            try:
                yield self._batch(records)
            except RecordError as error:
                raise SourceError(f"{self.path}: {error}") from error

    def continue_numbering(self, numbering: SourceNumbering) -> None:
        """Number from where `numbering` stands: for files whose source name is read first."""
        self._numbering = numbering

    def _open(self) -> pa.NativeFile:
        try:
            with self.path.open("rb") as file:
                zstd = file.read(4) == b"\x28\xb5\x2f\xfd"
            raw = pa.OSFile(str(self.path))
        except OSError as error:
            raise SourceError(f"{self.path}: cannot be opened: {error}") from error
        return pa.CompressedInputStream(raw, "zstd") if zstd else raw

    def _read(self, stream: pa.NativeFile, size: int) -> bytes:
        parts, missing = [], size
        while missing:
            try:
                part = stream.read(missing)
            except (OSError, pa.ArrowException) as error:
                raise SourceError(f"{self.path}: damaged zstd data: {error}") from error
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _read_metadata(self, stream: pa.NativeFile) -> databento_dbn.Metadata:
        head = self._read(stream, 8)
        if head[:3] != b"DBN" or len(head) < 8:
            raise SourceError(f"{self.path}: is no DBN file (it begins with {head[:4]!r})")
        length = int.from_bytes(head[4:], "little")
        try:
            return databento_dbn.Metadata.decode(head + self._read(stream, length))
        except (databento_dbn.DBNError, ValueError) as error:
            raise SourceError(
                f"{self.path}: metadata of DBN version {head[3]} cannot be read: {error};"
                f" this reader knows versions up to {databento_dbn.DBN_VERSION}"
            ) from error

    def _runs(self) -> Iterator[Records]:
        """Arrays of consecutive records of one type, at most `BATCH_ROWS` long."""
        with self._open() as stream:
            self._read_metadata(stream)
            rest = b""
            while chunk := self._read(stream, BATCH_ROWS * databento_dbn.MBP1Msg.size_hint):
                data = rest + chunk
                start = 0
                while len(data) - start >= 2 and len(data) - start >= 4 * data[start]:
                    records, size = self._run(data, start)
                    if records is not None:
                        yield from (
                            records[i : i + BATCH_ROWS] for i in range(0, len(records), BATCH_ROWS)
                        )
                    start += size
                rest = data[start:]
            if rest:
                raise SourceError(
                    f"{self.path}: ends inside a record ({len(rest)} bytes are left); the file is"
                    " cut off, fetch it again"
                )

    def _run(self, data: bytes, start: int) -> tuple[Records | None, int]:
        """The records of one type from `start` on (None for a control record) and their bytes."""
        length, rtype = data[start], data[start + 1]
        if rtype in _CONTROL_RTYPES and length:
            self._control(rtype, data[start : start + 4 * length])
            return None, 4 * length
        message = _MESSAGE_OF_RTYPE.get(rtype)
        if message is None:
            raise SourceError(
                f"{self.path}: holds records of type 0x{rtype:02x}"
                f" (schema {self.metadata.schema}); trades, mbp-1, tbbo and ohlcv can be read"
            )
        dtype = _dtype(message, bool(self.metadata.ts_out))
        if 4 * length != dtype.itemsize:
            raise SourceError(
                f"{self.path}: a record of type 0x{rtype:02x} says {4 * length} bytes,"
                f" {dtype.itemsize} are expected; the file is damaged"
            )
        records = np.frombuffer(data, dtype, (len(data) - start) // dtype.itemsize, start)
        other = np.flatnonzero((records["rtype"] != rtype) | (records["length"] != length))
        records = records[: other[0]] if len(other) else records
        return records, records.nbytes

    def _control(self, rtype: int, record: bytes) -> None:
        if rtype != _SYMBOL_MAPPING:
            return
        decoder = databento_dbn.DBNDecoder(
            has_metadata=False,
            ts_out=bool(self.metadata.ts_out),
            input_version=self.metadata.version,
        )
        try:
            (mapping,) = cast(list[Any], decoder.write_and_decode(record))
        except (databento_dbn.DBNError, ValueError) as error:
            raise SourceError(f"{self.path}: a symbol mapping cannot be read: {error}") from error
        self._symbols.map_live(mapping.instrument_id, mapping.stype_out_symbol)

    def _batch(self, records: Records) -> pa.RecordBatch:
        message = _MESSAGE_OF_RTYPE[int(records["rtype"][0])]
        kind = _KIND_OF_MESSAGE[message]
        times = times_ns(records)
        instrument = self._symbols.symbols(records["instrument_id"], times)
        columns: dict[str, Column] = {
            "instrument": instrument,
            "venue": venues(records["publisher_id"], self.metadata.dataset),
            "source": self.source,
            "source_sequence": self._numbering.number(instrument),
            "ts_event": pa.array(times),
            "region": self._region,
        }
        if kind == "bar":
            columns |= bar_columns(records)
        else:
            columns["quality_flags"] = pa.array(records["flags"])
            columns |= trade_columns(records) if kind == "trade" else quote_columns(records)
        return assemble(kind, columns, len(records))


@cache
def _dtype(message: Any, ts_out: bool) -> np.dtype[np.void]:
    layout = message._dtypes  # noqa: SLF001  the package's own clients build arrays from it
    fields = [(name, "<" + kind if kind[0] != "S" else kind) for name, kind in layout]
    return np.dtype([*fields, ("ts_out", "<u8")] if ts_out else fields)
