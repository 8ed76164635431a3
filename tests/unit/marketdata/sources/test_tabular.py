"""Parquet and CSV files by a column mapping."""

import gzip
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.batching import conform_events
from marketdata.sources import SourceError
from marketdata.sources.batches import MAX_BATCH_ROWS, SourceNumbering
from marketdata.sources.mapping import ColumnMapping, load_mapping, make_mapping
from marketdata.sources.tabular import TabularFile

TRADES = ColumnMapping(
    kind="trade",
    columns={"instrument": "sym", "ts_event": "time", "price": "px", "size": "qty"},
    constants={"venue": "XNAS"},
)
CSV = """sym,time,px,qty,extra
AAPL,2024-01-02T14:30:00.000000001Z,187.250000001,100,x
MSFT,2024-01-02T14:30:00.000000002Z,,0.00000001,x
AAPL,2024-01-02T14:30:00.000000003Z,-0.5,3,x
"""


def rows(file: TabularFile) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for batch in file:
        assert batch.num_rows <= MAX_BATCH_ROWS
        conform_events(batch, ts_publish_ns=1)
        out += batch.to_pylist()
    return out


def changed(**parts: Any) -> ColumnMapping:
    before = {name: getattr(TRADES, name) for name in TRADES.__struct_fields__}
    return ColumnMapping(**(before | parts))


@pytest.mark.parametrize("zipped", [False, True])
def test_csv_keeps_every_digit(tmp_path: Path, *, zipped: bool) -> None:
    path = tmp_path / ("ticks.csv.gz" if zipped else "ticks.csv")
    path.write_bytes(gzip.compress(CSV.encode()) if zipped else CSV.encode())
    got = rows(TabularFile(path, TRADES))
    assert [row["price"] for row in got] == [187_250_000_001, None, -500_000_000]
    assert [row["size"] for row in got] == [100 * 10**8, 1, 3 * 10**8]
    assert [row["instrument"] for row in got] == ["AAPL", "MSFT", "AAPL"]
    assert [row["source_sequence"] for row in got] == [1, 1, 2]
    assert [row["ts_event"].value % 10 for row in got] == [1, 2, 3]
    assert {row["source"] for row in got} == {"ticks"}
    assert {row["venue"] for row in got} == {"XNAS"}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=50))
def test_any_price_survives_csv_and_parquet(
    tmp_path_factory: pytest.TempPathFactory, prices: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("prices")
    values = [Decimal(price).scaleb(-9) for price in prices]
    lines = [f"A,{n},{value},1" for n, value in enumerate(values)]
    (folder / "t.csv").write_text("\n".join(["sym,time,px,qty", *lines]) + "\n")
    table = pa.table(
        {
            "sym": ["A"] * len(prices),
            "time": list(range(len(prices))),
            "px": pa.array(values, pa.decimal128(38, 9)),
            "qty": [1] * len(prices),
        }
    )
    pq.write_table(table, folder / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        got = rows(TabularFile(folder / name, changed(time_unit="ns")))
        assert [row["price"] for row in got] == prices


def test_parquet_types_are_read_as_they_are(tmp_path: Path) -> None:
    table = pa.table(
        {
            "instrument": pa.array(["A", "B"]).dictionary_encode(),
            "ts_event": pa.array([1, 2], pa.timestamp("ms", "America/New_York")),
            "price": [187.25, 0.1],
            "size": pa.array([1, 2], pa.uint16()),
            "quality": [0.5, None],
            "venue": ["XNAS", "XNYS"],
            "source_sequence": [7, 8],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    got = rows(TabularFile(tmp_path / "t.parquet", ColumnMapping(kind="trade")))
    assert [row["price"] for row in got] == [187_250_000_000, 100_000_000]
    assert [row["ts_event"].value for row in got] == [1_000_000, 2_000_000]
    assert [row["source_sequence"] for row in got] == [7, 8]
    assert [row["quality"] for row in got] == [0.5, None]


def test_units_and_time_zones_apply(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("sym;time;px;qty\nA;2024-01-02 09:30:00;18725;2\n")
    mapping = changed(
        timezone="America/New_York", price_unit="0.01", size_unit="100", delimiter=";"
    )
    (row,) = rows(TabularFile(path, mapping))
    assert (row["price"], row["size"]) == (187_250_000_000, 200 * 10**8)
    assert row["ts_event"].value == 1_704_205_800_000_000_000


def test_rows_out_of_order_are_refused_sorted_or_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("sym,time,px,qty\nA,1,1,1\nB,3,1,1\nA,2,1,1\n")

    def read(order: str) -> list[tuple[int, str, int]]:
        file = TabularFile(path, changed(time_unit="ns", order=order))
        return [
            (row["ts_event"].value, row["instrument"], row["source_sequence"]) for row in rows(file)
        ]

    with pytest.raises(SourceError, match="row 3 is earlier than the row before it; use order"):
        read("check")
    assert read("sort") == [(1, "A", 1), (2, "A", 2), (3, "B", 1)]
    assert read("file") == [(1, "A", 1), (3, "B", 1), (2, "A", 2)]


@pytest.mark.parametrize("order", ["check", "sort", "file"])
def test_a_file_without_rows_has_no_events(tmp_path: Path, order: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("sym,time,px,qty\n")
    assert rows(TabularFile(path, changed(order=order))) == []


def test_many_instruments_pass_beyond_one_dictionary(tmp_path: Path) -> None:
    count = MAX_BATCH_ROWS + 1000
    names = [f"I{n:06d}" for n in range(count)]
    table = pa.table({"sym": names, "time": list(range(count))[::-1], "px": [1] * count})
    pq.write_table(table.append_column("qty", table["px"]), tmp_path / "t.parquet")
    got = rows(TabularFile(tmp_path / "t.parquet", changed(time_unit="ns", order="sort")))
    assert [row["instrument"] for row in got] == names[::-1]


def test_a_column_that_names_the_sources_leaves_numbers_to_them(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("sym,time,px,qty,source\nA,1,1,1,x\nA,2,1,1,y\n")
    got = rows(TabularFile(path, changed(time_unit="ns")))
    assert [(row["source"], row["source_sequence"]) for row in got] == [("x", None), ("y", None)]


def test_numbering_goes_on_over_files(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(CSV)
    numbering = SourceNumbering()
    got = [row for _ in range(2) for row in rows(TabularFile(path, TRADES, numbering=numbering))]
    assert [row["source_sequence"] for row in got] == [1, 1, 2, 3, 2, 4]


def test_a_large_csv_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    block = "".join(f"A,{n},1.5,1\n" for n in range(100_000))
    with path.open("w") as file:
        file.write("sym,time,px,qty\n")
        for _ in range(30):
            file.write(block)
    before = pa.total_allocated_bytes()
    peak = count = 0
    for batch in TabularFile(path, changed(time_unit="ns", order="file")):
        count += batch.num_rows
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert count == 3_000_000
    assert peak < path.stat().st_size / 2


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sym,time,px\nA,1,1\n", r"no column 'qty' \(mapped to size\); it has: sym, time, px"),
        ("sym,time,px,qty\nA,1,1,1\nB,2,x,1\n", r"column 'px' \(for price\), row 2: holds 'x'"),
        ("sym,time,px,qty\nA,1,1,1\n,2,1,1\n", r"column 'sym' \(for instrument\), row 2: is empty"),
        ("sym,time,px,qty\nA,soon,1,1\n", r"column 'time' \(for ts_event\), row 1: holds 'soon'"),
        ("sym,time,px,qty\nA,1,1,1\nA,1\n", "cannot be read"),
        ("", "cannot be read"),
        ("sym,time,px,qty,side,quality\nA,1,1,1,buy,good\n", r"column 'quality'"),
    ],
)
def test_errors_name_file_column_row_and_value(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=match) as caught:
        rows(TabularFile(path, changed(time_unit="ns")))
    assert str(path) in str(caught.value)


def test_the_row_of_an_error_counts_over_batches(tmp_path: Path) -> None:
    count = MAX_BATCH_ROWS + 500
    table = pa.table({"sym": ["A"] * count, "time": list(range(count)), "px": ["1"] * count})
    table = table.append_column("qty", pa.array(["1"] * (count - 1) + ["1.000000001"]))
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=rf"row {count}: holds '1.000000001'"):
        rows(TabularFile(tmp_path / "t.parquet", changed(time_unit="ns")))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no\.csv: cannot be read"):
        TabularFile(tmp_path / "no.csv", TRADES)


def test_what_nothing_provides_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(CSV)
    with pytest.raises(SourceError, match=r"nothing provides venue; .* or set it \(venue=…\)"):
        TabularFile(path, changed(constants={}))


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({}, "say the kind of event: trade, quote"),
        ({"kind": "tick"}, "kind is 'tick'; it must be one of trade, quote"),
        ({"kind": "trade", "columns": {"bid": "b"}}, "a trade has no column 'bid'; it has: instr"),
        ({"kind": "trade", "constants": {"price": "1"}}, "'price' cannot be a constant"),
        (
            {"kind": "trade", "columns": {"venue": "v"}, "constants": {"venue": "V"}},
            "both mapped and constant",
        ),
        ({"kind": "trade", "time_unit": "h"}, "time_unit is 'h'"),
        ({"kind": "trade", "timezone": "Mars/Olympus"}, "timezone 'Mars/Olympus' is unknown"),
        ({"kind": "trade", "price_unit": "0.05"}, "power of ten"),
        ({"kind": "trade", "delimiter": ""}, "not one character"),
        ({"kind": "trade", "order": "any"}, "order is 'any'"),
        ({"kind": "trade", "colums": {}}, "unknown field `colums`"),
        ({"kind": "trade", "columns": 3}, "Expected `object`"),
    ],
)
def test_a_wrong_mapping_says_what_is_allowed(parts: dict[str, object], match: str) -> None:
    with pytest.raises(SourceError, match=match):
        make_mapping(parts)


def test_mappings_are_read_from_yaml_and_json(tmp_path: Path) -> None:
    parts = {"kind": "trade", "columns": {"price": "px"}, "price_unit": "0.01"}
    (tmp_path / "m.json").write_text(json.dumps(parts))
    (tmp_path / "m.yaml").write_text('kind: trade\ncolumns: {price: px}\nprice_unit: "0.01"\n')
    for name in ("m.json", "m.yaml"):
        assert make_mapping(load_mapping(tmp_path / name)) == ColumnMapping(
            kind="trade", columns={"price": "px"}, price_unit="0.01"
        )


@pytest.mark.parametrize(("name", "text"), [("m.json", "{"), ("m.json", "[]"), ("m.yaml", "a: [")])
def test_a_broken_mapping_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=name):
        load_mapping(tmp_path / name)
