"""Assembling batches and numbering events."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from marketdata.frames import validate_events
from marketdata.schemas import INGEST_SCHEMAS
from marketdata.sources.batches import NumberingBySource, SourceNumbering, assemble, ranks, symbols


@given(st.lists(st.lists(st.sampled_from("ABCDEFG"), min_size=1), max_size=6))
def test_each_instrument_is_numbered_from_one_without_holes(batches: list[list[str]]) -> None:
    numbering = SourceNumbering()
    seen: dict[str, int] = {}
    for names in batches:
        numbers = numbering.number(symbols(pa.array(names))).to_pylist()
        for name, number in zip(names, numbers, strict=True):
            seen[name] = seen.get(name, 0) + 1
            assert number == seen[name]


def test_ranks_of_nothing_are_nothing() -> None:
    assert ranks(np.array([], dtype=np.int64)).tolist() == []


def test_sources_are_numbered_apart() -> None:
    numbering = NumberingBySource()
    column = symbols(pa.array(["A", "A"]))
    assert numbering["x"].number(column).to_pylist() == [1, 2]
    assert numbering["y"].number(column).to_pylist() == [1, 2]
    assert numbering["x"].number(column).to_pylist() == [3, 4]


def test_columns_not_given_are_null_and_the_schema_is_the_contracts() -> None:
    batch = assemble(
        "trade",
        {
            "instrument": pa.array(["A", "B"]),
            "venue": "XNAS",
            "source": "test",
            "ts_event": pa.array([1, 2]),
            "trade_id": "t",
        },
        2,
    )
    validate_events(batch)
    assert batch.schema.equals(INGEST_SCHEMAS["trade"], check_metadata=True)
    assert batch.column("venue").to_pylist() == ["XNAS", "XNAS"]
    assert batch.column("trade_id").to_pylist() == ["t", "t"]
    assert batch.column("price").null_count == 2
    assert batch.column("ts_publish").equals(batch.column("ts_event"))
