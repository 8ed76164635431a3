"""Splitting a batch: every piece holds its rows and names nothing else."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata import splitting
from marketdata.schemas import SYMBOL
from marketdata.splitting import split_rows

SCHEMA = pa.schema([("instrument", SYMBOL), ("side", SYMBOL), ("price", pa.int64())])


def batch_of(rows: list[tuple[str, str | None, int | None]]) -> pa.RecordBatch:
    instrument, side, price = zip(*rows, strict=True)
    return pa.record_batch(
        [
            pa.array(instrument).dictionary_encode().cast(SYMBOL),
            pa.array(side, pa.utf8()).dictionary_encode().cast(SYMBOL),
            pa.array(price, pa.int64()),
        ],
        schema=SCHEMA,
    )


rows_ = st.lists(
    st.tuples(
        st.sampled_from("ABCDEF"),
        st.sampled_from(["buy", "sell", None]),
        st.none() | st.integers(-5, 5),
    ),
    min_size=1,
    max_size=30,
)


@st.composite
def batches_with_selections(draw: st.DrawFn) -> tuple[pa.RecordBatch, list[Any]]:
    rows = draw(rows_)
    number = st.integers(0, len(rows) - 1)
    chosen = draw(st.lists(st.sets(number, min_size=1), max_size=6))
    return batch_of(rows), [np.array(sorted(each), dtype=np.int64) for each in chosen]


@given(batches_with_selections(), st.integers(1, 20), st.integers(1, 20))
def test_every_piece_holds_its_rows_and_names_nothing_else(
    case: tuple[pa.RecordBatch, list[Any]], most_rows: int, most_cells: int
) -> None:
    batch, selections = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "MAX_GATHERED_ROWS", most_rows)
        patch.setattr(splitting, "MAX_CELLS", most_cells)
        pieces = list(split_rows(batch, selections))

    assert len(pieces) == len(selections)
    for piece, selection in zip(pieces, selections, strict=True):
        piece.validate(full=True)
        assert piece.schema == batch.schema
        assert piece.to_pylist() == batch.take(pa.array(selection)).to_pylist()
        for column in piece.columns[:2]:
            occurring = set(column.to_pylist()) - {None}
            assert sorted(column.dictionary.to_pylist()) == sorted(occurring) or (
                # A symbol column of nulls alone may keep an empty dictionary only.
                not occurring and not len(column.dictionary)
            )
