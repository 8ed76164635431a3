"""Any file of events by its content: Databento DBN, Parquet or CSV."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa

from marketdata.sources.batches import NumberingBySource
from marketdata.sources.errors import SourceError
from marketdata.sources.mapping import make_mapping
from marketdata.sources.tabular import TabularFile

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"


class EventFile(Protocol):
    """What every reader offers: batches of events under one source name."""

    source: str

    def __iter__(self) -> Iterator[pa.RecordBatch]: ...


def open_events(
    path: str | Path,
    *,
    mapping: dict[str, object] | None = None,
    numbering: NumberingBySource | None = None,
    unmapped_ids: bool = False,
) -> EventFile:
    """A reader for one file.

    Args:
        mapping: the parts of a `ColumnMapping`; needed for Parquet and CSV. Of DBN files only
            the constants `source` and `region` are looked at, and nothing else may be given.
        numbering: continues source sequences over several files.
        unmapped_ids: for DBN, name instruments without a symbol by their ids.

    Raises:
        SourceError: the file cannot be opened, or the mapping does not fit it.
    """
    parts = dict(mapping or {})
    numbering = numbering or NumberingBySource()
    if _is_dbn(Path(path)):
        return _open_dbn(path, parts, numbering, unmapped_ids)
    if "kind" not in parts:
        raise SourceError(
            f"{path}: a Parquet or CSV file needs the kind of its events and a column mapping,"
            " for example kind=trade, instrument=symbol, ts_event=time, price=px, size=qty"
        )
    checked = make_mapping(parts)
    source = checked.constants.get("source", Path(path).name.partition(".")[0])
    return TabularFile(path, checked, numbering=numbering[source])


def _open_dbn(
    path: str | Path, parts: dict[str, object], numbering: NumberingBySource, unmapped_ids: bool
) -> EventFile:
    try:
        from marketdata.sources.dbn import DbnFile  # noqa: PLC0415  optional dependency
    except ImportError as error:
        raise SourceError(
            f"{path}: DBN files need the package databento-dbn; install the extra `sources`"
        ) from error
    constants = parts.pop("constants", None) or {}
    if not isinstance(constants, dict) or set(constants) - {"source", "region"} or parts:
        raise SourceError(
            f"{path}: a DBN file says itself what it holds: give no kind, mapping or units,"
            " and no constants but source and region"
        )
    file = DbnFile(
        path,
        source=constants.get("source"),
        region=constants.get("region"),
        unmapped_ids=unmapped_ids,
    )
    file.continue_numbering(numbering[file.source])
    return file


def _is_dbn(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if magic == _ZSTD_MAGIC:
                magic = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd").read(4)
    except (OSError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be opened: {error}") from error
    return bool(magic[:3] == b"DBN")
