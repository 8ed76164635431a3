"""Hypothesis strategies and builders for batches of events of every kind."""

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from marketdata.frames import MAX_SYMBOL_BYTES
from marketdata.schemas import (
    INGEST_SCHEMAS,
    KINDS,
    SEQUENCED_SCHEMAS,
    SYMBOL,
    is_symbol,
)

_NOT_NEGATIVE = {"size", "bid_size", "ask_size", "volume"}
SYMBOLS = st.text(
    st.characters(exclude_categories=("Cs",)), min_size=1, max_size=MAX_SYMBOL_BYTES // 4
)


def values_of(field: pa.Field) -> st.SearchStrategy[Any]:
    """Valid values of a column, nulls included where they may be."""
    type_ = field.type
    values: st.SearchStrategy[Any]
    if is_symbol(field):
        values = SYMBOLS
    elif pa.types.is_timestamp(type_):
        values = st.integers(0, 2**63 - 1)
    elif pa.types.is_string(type_):
        values = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
    elif pa.types.is_float32(type_):
        values = st.floats(0, 1, width=32)
    elif pa.types.is_int64(type_):
        least = 1 if field.name == "interval_ns" else 0 if field.name in _NOT_NEGATIVE else -(2**63)
        values = st.integers(least, 2**63 - 1)
    else:
        values = st.integers(0, 2**type_.bit_width - 1)
    return st.none() | values if field.nullable else values


@st.composite
def batches(
    draw: st.DrawFn,
    *,
    kind: str | None = None,
    sequenced: bool = False,
    max_rows: int = 12,
    instruments: st.SearchStrategy[str] = SYMBOLS,
) -> pa.RecordBatch:
    """A batch that keeps the contract."""
    kind = kind or draw(st.sampled_from(KINDS))
    schema = (SEQUENCED_SCHEMAS if sequenced else INGEST_SCHEMAS)[kind]
    rows = draw(st.integers(1, max_rows))
    columns = []
    for field in schema:
        strategy = instruments if field.name == "instrument" else values_of(field)
        values = draw(st.lists(strategy, min_size=rows, max_size=rows))
        columns.append(column(values, field))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def column(values: list[Any], field: pa.Field) -> pa.Array:
    """Values as an array of a field's type."""
    if is_symbol(field):
        return pa.array(values, pa.utf8()).dictionary_encode().cast(SYMBOL)
    if pa.types.is_timestamp(field.type):
        return pa.array(values, pa.int64()).view(field.type)
    return pa.array(values, field.type)


def trades(instruments: list[str], **columns: list[Any]) -> pa.RecordBatch:
    """A batch of plausible ingest trades of the given instruments."""
    rows = len(instruments)
    given: dict[str, list[Any]] = {
        "price": [187_250_000_000 + n for n in range(rows)],
        "size": [100_000_000] * rows,
        "side": ["buy"] * rows,
        "trade_id": [str(n) for n in range(rows)],
        "conditions": [None] * rows,
    }
    return _events("trade", instruments, given | columns)


def quotes(instruments: list[str], **columns: list[Any]) -> pa.RecordBatch:
    """A batch of plausible ingest quotes of the given instruments."""
    rows = len(instruments)
    given: dict[str, list[Any]] = {
        "bid_price": [187_240_000_000 + n for n in range(rows)],
        "bid_size": [200_000_000] * rows,
        "ask_price": [187_260_000_000 + n for n in range(rows)],
        "ask_size": [300_000_000] * rows,
    }
    return _events("quote", instruments, given | columns)


def _events(kind: str, instruments: list[str], columns: dict[str, list[Any]]) -> pa.RecordBatch:
    schema = INGEST_SCHEMAS[kind]
    rows = len(instruments)
    given: dict[str, list[Any]] = {
        "instrument": list(instruments),
        "venue": ["XNAS"] * rows,
        "source": ["test"] * rows,
        "source_sequence": list(range(1, rows + 1)),
        "ts_event": (1_700_000_000_000_000_000 + np.arange(rows)).tolist(),
        "ts_publish": [1_700_000_000_000_000_500] * rows,
        "quality": [1.0] * rows,
        "quality_flags": [0] * rows,
        "region": ["us"] * rows,
        **columns,
    }
    return pa.RecordBatch.from_arrays([column(given[f.name], f) for f in schema], schema=schema)


@st.composite
def logs(draw: st.DrawFn, *, instruments: str = "ABC", frames: int = 8) -> list[pa.RecordBatch]:
    """A partition's log: sequenced frames of trades and quotes, few rows each; cheap to make."""
    rows = st.lists(st.sampled_from(instruments), min_size=1, max_size=5)
    wanted = draw(
        st.lists(st.tuples(st.sampled_from(["trade", "quote"]), rows), min_size=1, max_size=frames)
    )
    sequences: dict[str, int] = {}
    log = []
    for kind, names in wanted:
        batch = (trades if kind == "trade" else quotes)(names)
        numbers = []
        for name in names:
            sequences[name] = sequences.get(name, 0) + 1
            numbers.append(sequences[name])
        given = {name: batch.column(name) for name in batch.schema.names} | {
            "sequence": pa.array(numbers, pa.uint64()),
            "epoch": pa.array([1] * len(names), pa.uint32()),
            "ts_sequenced": batch.column("ts_publish"),
        }
        schema = SEQUENCED_SCHEMAS[kind]
        log.append(pa.RecordBatch.from_arrays([given[f.name] for f in schema], schema=schema))
    return log
