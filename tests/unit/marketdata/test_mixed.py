"""Mixed frames hold what the frames of single kinds held, and nothing else."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from events import batches, quotes, trades
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.filters.columns import FrameColumns
from marketdata.frames import encode_frame, read_frame
from marketdata.mixed import (
    MIXED,
    kind_runs,
    mixed_batch,
    mixed_schema,
    occurring,
    single_kinds,
)
from marketdata.schemas import ASSIGNED, COLUMNS, INGEST_SCHEMAS, KINDS, SEQUENCED_SCHEMAS
from marketdata.splitting import split_rows
from marketdata.transformations import Transformation

FEW = st.sampled_from(["A", "B", "C"])


def frames(kinds: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, pa.RecordBatch]]]:
    one = kinds.flatmap(
        lambda kind: st.tuples(
            st.just(kind), batches(kind=kind, sequenced=True, max_rows=4, instruments=FEW)
        )
    )
    return st.lists(one, min_size=1, max_size=5)


def events(found: list[tuple[str, pa.RecordBatch]]) -> list[dict[str, Any]]:
    """What single frames hold, as mixed ones say it."""
    names = {name for kind, _ in found for name in SEQUENCED_SCHEMAS[kind].names}
    empty = dict.fromkeys(names)
    return [{**empty, **row, "kind": kind} for kind, batch in found for row in rows_of(batch)]


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    # As integers: Python's datetimes have no nanoseconds.
    columns = [
        column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names).to_pylist()


@settings(max_examples=15)
@given(frames(st.sampled_from(KINDS)))
def test_a_mixed_batch_holds_every_event_of_every_kind(
    found: list[tuple[str, pa.RecordBatch]],
) -> None:
    batch = mixed_batch(found)

    batch.validate(full=True)
    assert batch.schema == mixed_schema([kind for kind, _ in found])
    assert batch.schema.metadata[b"kind"].decode() == MIXED
    assert rows_of(batch) == events(found)
    assert read_frame(encode_frame(batch)).equals(batch)


@settings(max_examples=15)
@given(frames(st.sampled_from(KINDS)), st.data())
def test_what_is_cut_out_has_the_columns_of_the_kinds_in_it(
    found: list[tuple[str, pa.RecordBatch]], data: st.DataObject
) -> None:
    batch = mixed_batch(found)
    number = st.integers(0, batch.num_rows - 1)
    chosen = np.array(data.draw(st.lists(number, min_size=1, unique=True)))

    [piece] = split_rows(batch, [chosen])
    shown = occurring(piece)

    kinds = [batch["kind"][int(row)].as_py() for row in chosen]
    assert shown.schema == mixed_schema(kinds)
    whole = rows_of(batch)
    assert rows_of(shown) == [
        {name: whole[int(row)][name] for name in shown.schema.names} for row in chosen
    ]


@settings(max_examples=15)
@given(frames(st.sampled_from(KINDS)), st.booleans())
def test_a_mixed_batch_comes_apart_into_what_it_was_made_of(
    found: list[tuple[str, pa.RecordBatch]], ingest: bool
) -> None:
    schemas = INGEST_SCHEMAS if ingest else SEQUENCED_SCHEMAS
    if ingest:
        found = [
            (kind, batch.drop_columns(list(ASSIGNED)).cast(schemas[kind])) for kind, batch in found
        ]
    first, second = mixed_batch(found[:2]), found[2:]
    batch = mixed_batch([(MIXED, first), *second])

    runs = list(single_kinds(MIXED, batch))

    assert batch.schema == mixed_schema([kind for kind, _ in found], ingest=ingest)
    assert all(run.schema == schemas[kind] for kind, run in runs)
    assert len(runs) == kind_runs(MIXED, batch)
    assert all(one != other for (one, _), (other, _) in pairwise(runs))
    assert [(kind, row) for kind, run in runs for row in rows_of(run)] == [
        (kind, row) for kind, one in found for row in rows_of(one)
    ]
    assert [(kind, run) for kind, run in single_kinds(*found[0])] == [found[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_alone_needs_no_further_column(kind: str) -> None:
    schema = mixed_schema([kind])
    own = SEQUENCED_SCHEMAS[kind]
    assert sorted(schema.names) == sorted(["kind", *own.names])
    assert all(schema.field(name) == own.field(name) for name in own.names)


def test_a_column_that_some_kinds_lack_may_be_null() -> None:
    schema = mixed_schema()
    assert schema.names == ["kind", *COLUMNS]
    assert not schema.field("sequence").nullable
    assert schema.field("bid_price").nullable
    assert schema.field("bid_price").metadata == COLUMNS["bid_price"].metadata


@settings(max_examples=15)
@given(frames(st.sampled_from(["trade", "quote"])))
def test_a_transformation_gives_each_event_what_it_gives_it_alone(
    found: list[tuple[str, pa.RecordBatch]],
) -> None:
    transformation = Transformation(
        select=("instrument", "sequence", "price", "bid_price", "venue"),
        rename={"price": "px"},
        mask=("venue",),
        compute={
            "what": "CASE WHEN kind = 'trade' THEN 'print' ELSE kind END",
            "half": "coalesce(price, bid_price) / 2",
        },
    )
    transformation.validate()

    mixed = transformation.apply(mixed_batch(found))

    alone = [(kind, transformation.apply(batch)) for kind, batch in found]
    names = {name for _, batch in alone for name in batch.schema.names}
    assert set(mixed.schema.names) == {"kind", *names}
    assert mixed.schema == transformation.schema(mixed_schema([kind for kind, _ in found]))
    assert rows_of(mixed) == [
        {**dict.fromkeys(names), **row, "kind": kind}
        for kind, batch in alone
        for row in rows_of(batch)
    ]


def test_each_event_has_its_own_kind_also_where_few_rows_are_looked_at() -> None:
    kinds = ["trade", "quote", "trade"]
    made = {"trade": trades, "quote": quotes}
    batch = mixed_batch([(kind, sequenced(made[kind](["A"]), kind)) for kind in kinds])
    columns = FrameColumns(batch, MIXED)
    for seen, expected in (
        (columns, kinds),
        (columns.narrow(np.array([2, 1])), ["trade", "quote"]),
    ):
        texts = seen.kinds()
        assert texts.values.take(pa.array(texts.codes)).to_pylist() == expected


def sequenced(batch: pa.RecordBatch, kind: str) -> pa.RecordBatch:
    numbers = InstrumentSequences().assign(batch)
    return with_sequences(batch, kind, numbers, epoch=1, ts_sequenced_ns=1)
