"""The join against one written event by event."""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given

from marketdata.reference import (
    Enrichment,
    ReferenceTable,
    TableSpec,
    content_of,
    enriched,
    references_of,
    resolved,
)
from marketdata.reference.spec import UnknownTable
from marketdata.reference.table import read_content, schema_of
from marketdata.schemas import SEQUENCED_SCHEMAS, SYMBOL

NAMES = st.sampled_from(["A", "B", "C", "D"])
VENUES = st.sampled_from(["X", "Y"])
TIMES = st.integers(-3, 12)
EVENTS = st.lists(st.tuples(NAMES, VENUES, st.one_of(st.none(), VENUES), TIMES), max_size=30)

TRADE = SEQUENCED_SCHEMAS["trade"]


def events_of(rows: list[tuple[str, str, str | None, int]]) -> pa.RecordBatch:
    """Trades with these instruments, venues, regions and times."""
    parts = zip(*rows, strict=True) if rows else ((), (), (), ())
    given_ = dict(zip(("instrument", "venue", "region", "ts_event"), parts, strict=True))
    columns = []
    for field in TRADE:
        values = list(given_.get(field.name, ()))
        if field.name in given_ and pa.types.is_dictionary(field.type):
            columns.append(pa.array(values, pa.utf8()).dictionary_encode().cast(SYMBOL))
        elif field.name in given_:
            columns.append(pa.array(values, field.type))
        else:
            columns.append(pa.nulls(len(rows), field.type))
    return pa.RecordBatch.from_arrays(columns, schema=TRADE)


def table_of(spec: TableSpec, rows: list[dict[str, Any]]) -> ReferenceTable:
    content = content_of(spec, pa.Table.from_pylist(rows, schema=schema_of(spec)))
    return ReferenceTable(read_content(content.data))


@given(EVENTS, st.dictionaries(st.tuples(NAMES, TIMES), st.integers(0, 99), max_size=12))
def test_a_row_holds_from_its_time_until_the_next_one_of_its_key(
    rows: list[tuple[str, str, str | None, int]], held: dict[tuple[str, int], int]
) -> None:
    spec = TableSpec(
        {"instrument": "text", "since": "time", "lot": "integer"}, ("instrument",), "since"
    )
    table = table_of(
        spec, [{"instrument": name, "since": at, "lot": lot} for (name, at), lot in held.items()]
    )
    asked = resolved(Enrichment("t", {"lot": "lot"}, missing="drop"), spec, ())
    joined = enriched([asked], events_of(rows), {"t": table})
    expected = []
    for name, _, _, at in rows:
        past = [(since, lot) for (of, since), lot in held.items() if of == name and since <= at]
        expected.append(max(past)[1] if past else None)
    assert joined.events.column("lot").to_pylist() == expected
    assert joined.missing[asked.rule].tolist() == [lot is None for lot in expected]
    assert joined.events.select(TRADE.names).equals(events_of(rows))


@given(
    EVENTS,
    st.dictionaries(
        st.tuples(NAMES, VENUES), st.one_of(st.none(), st.text(max_size=3)), max_size=8
    ),
)
def test_keys_of_two_columns_and_of_null(
    rows: list[tuple[str, str, str | None, int]], held: dict[tuple[str, str], str | None]
) -> None:
    spec = TableSpec({"of": "text", "at": "text", "note": "text"}, ("of", "at"))
    table = table_of(spec, [{"of": of, "at": at, "note": note} for (of, at), note in held.items()])
    asked = resolved(Enrichment("t", {"note": "note"}, on=("instrument", "region")), spec, ())
    joined = enriched([asked], events_of(rows), {"t": table})
    assert joined.events.column("note").to_pylist() == [
        held.get((name, region)) if region else None for name, _, region, _ in rows
    ]
    assert joined.missing == {}


@given(EVENTS, st.dictionaries(NAMES, st.one_of(st.none(), VENUES)), st.dictionaries(VENUES, TIMES))
def test_a_table_may_be_joined_on_what_an_earlier_one_gave(
    rows: list[tuple[str, str, str | None, int]],
    currencies: dict[str, str | None],
    rates: dict[str, int],
) -> None:
    masters = TableSpec({"instrument": "text", "ccy": "text"}, ("instrument",))
    rated = TableSpec({"ccy": "text", "rate": "decimal(4)"}, ("ccy",))
    tables = {
        "masters": table_of(
            masters, [{"instrument": name, "ccy": ccy} for name, ccy in currencies.items()]
        ),
        "rates": table_of(rated, [{"ccy": ccy, "rate": rate} for ccy, rate in rates.items()]),
    }
    first = resolved(Enrichment("masters", {"ccy": "currency"}), masters, ())
    second = resolved(
        Enrichment("rates", {"rate": "rate"}, on=("currency",)), rated, references_of([first])
    )
    joined = enriched([first, second], events_of(rows), tables).events
    expected = [currencies.get(name) for name, *_ in rows]
    assert joined.column("currency").to_pylist() == expected
    assert joined.column("rate").to_pylist() == [rates.get(ccy or "") for ccy in expected]
    assert joined.schema.field("rate").metadata == {b"scale": b"4"}


def test_a_kind_without_the_column_has_no_row() -> None:
    spec = TableSpec({"side": "text", "n": "integer"}, ("side",))
    asked = resolved(Enrichment("t", {"n": "n"}, missing="dead-letter"), spec, ())
    schema = SEQUENCED_SCHEMAS["quote"]
    quotes = pa.RecordBatch.from_arrays([pa.nulls(2, f.type) for f in schema], schema=schema)
    joined = enriched([asked], quotes, {"t": table_of(spec, [{"side": "buy", "n": 1}])})
    assert joined.missing["t.side"].tolist() == [True, True]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (Enrichment("t", {"no": "no"}), "has no column 'no'"),
        (Enrichment("t", {"n": "n"}, on=("price",)), "cannot be found by 'price'"),
        (Enrichment("t", {"n": "n"}, on=("venue", "side")), "names 2 columns"),
        (Enrichment("t", {"n": "n"}, on=("venue",), types={"n": "text"}), "declares"),
        (Enrichment("t", {"n": "n"}), "cannot be found by 'isin'"),
    ],
)
def test_what_a_table_cannot_give_is_refused(asked: Enrichment, told: str) -> None:
    spec = TableSpec({"isin": "text", "n": "integer"}, ("isin",))
    with pytest.raises(UnknownTable, match=told):
        resolved(asked, spec, (("isin_number", "integer"),))


def test_many_instruments_are_found() -> None:
    spec = TableSpec({"instrument": "text", "n": "integer"}, ("instrument",))
    names = [f"I{n}" for n in range(100_000)]
    rows = pa.table([names, np.arange(100_000)], schema=schema_of(spec))
    table = ReferenceTable(read_content(content_of(spec, rows).data))
    found = table.rows_at(table.groups(["I99999", "I5", "no"]), np.zeros(3, np.int64))
    assert table.column("n", found).to_pylist() == [99_999, 5, None]
