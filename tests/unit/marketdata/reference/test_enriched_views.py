"""What a view makes of columns from reference tables: expressions, rules, names and formats."""

import json

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.formats import sequenced_frames
from functions.operators.render import check, max_rows, render
from marketdata.filters import FilterError
from marketdata.filters.computed import compile_computed
from marketdata.filters.tree import to_sql
from marketdata.formats import get_format
from marketdata.frames import frame_kind
from marketdata.mixed import mixed_batch
from marketdata.plans import (
    Delivery,
    View,
    ViewSpec,
    compile_plan,
    decode_plan,
    encode_plan,
    view_of,
)
from marketdata.reference import (
    Enrichment,
    ReferenceTable,
    TableRef,
    TableSpec,
    UnknownTable,
    content_of,
    resolved,
)
from marketdata.reference.table import read_content, schema_of
from marketdata.rules import Rule
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import Transformation, TransformationError

SPEC = TableSpec(
    {
        "instrument": "text",
        "figi": "text",
        "rate": "decimal(6)",
        "lot": "integer",
        "listed": "boolean",
        "since": "time",
    },
    ("instrument",),
)
ALL = {"figi": "figi", "rate": "usd", "lot": "lot", "listed": "listed", "since": "since"}
REFERENCES = (("figi", "text"), ("listed", "boolean"), ("lot", "integer"), ("usd", "decimal(6)"))


def view_with(transformation: Transformation, format_: str = "arrow", **delivery: str) -> View:
    asked = [resolved(one, SPEC, ()) for one in transformation.enrich or ()]
    transformation = msgspec.structs.replace(transformation, enrich=tuple(asked))
    transformation.validate()
    spec = ViewSpec(
        transformation=transformation.canonical(),
        format=format_,
        delivery=msgspec.convert(delivery, Delivery),
        computed=dict(transformation.compiled()),
        conditions=dict(transformation.conditions()),
    )
    # As functions get it.
    return decode_plan(
        encode_plan(
            compile_plan(1, [spec], created_at_ns=0, tables={"masters": TableRef(1, "0" * 64, 1)})
        )
    ).views[0]


def masters(events: pa.RecordBatch, *, without: str) -> dict[str, ReferenceTable]:
    names = sorted(set(events.column("instrument").to_pylist()) - {without})
    n = np.arange(len(names))
    columns = [
        names,
        [f"BBG{name}" for name in names],
        1_500_000 + n,
        [None if i % 3 == 0 else i for i in n.tolist()],
        n % 2,
        n * 10**9,
    ]
    rows = pa.table(columns, schema=schema_of(SPEC))
    return {"masters": ReferenceTable(read_content(content_of(SPEC, rows).data))}


@pytest.fixture(scope="module")
def trades() -> pa.RecordBatch:
    return next(f for f in sequenced_frames(20, 200) if frame_kind(f) == "trade")


def delivered(view: View, events: pa.RecordBatch, tables: dict[str, ReferenceTable]) -> bytes:
    joined = view.transformation.joined(events, tables)
    [message] = render(view, joined.events, checked=check(view, joined)).messages
    return message


def test_columns_stand_behind_those_of_the_events_and_are_null_without_a_row(
    trades: pa.RecordBatch,
) -> None:
    absent = trades.column("instrument")[0].as_py()
    view = view_with(
        Transformation(
            enrich=(Enrichment("masters", ALL),),
            compute={"usd_price": "round(price * usd, 4)", "known": "coalesce(figi, 'none')"},
            rename={"lot": "round_lot"},
            mask=("since",),
        )
    )
    data = delivered(view, trades, masters(trades, without=absent))
    found = pa.ipc.open_stream(data).read_next_batch()
    assert found.schema.names == [
        *trades.schema.names, "figi", "listed", "round_lot", "since", "usd", "known", "usd_price",
    ]  # fmt: skip
    assert found.schema == view.transformation.schema(trades.schema)
    for event, row in zip(trades.to_pylist(), found.to_pylist(), strict=True):
        missing = event["instrument"] == absent
        assert (row["figi"] is None) == missing
        assert row["known"] == ("none" if missing else f"BBG{event['instrument']}")
        assert row["since"] is None
        if not missing:
            exact = round(event["price"] * row["usd"] / 10**11)
            assert abs(row["usd_price"] - exact) <= 1


def test_select_decides_what_of_it_is_delivered(trades: pa.RecordBatch) -> None:
    view = view_with(
        Transformation(
            enrich=(Enrichment("masters", ALL),),
            select=("instrument", "figi", "sequence"),
            compute={"usd_price": "round(price * usd, 4)"},
        )
    )
    found = pa.ipc.open_stream(
        delivered(view, trades, masters(trades, without=""))
    ).read_next_batch()
    assert found.schema.names == ["instrument", "figi", "sequence", "usd_price"]


@pytest.mark.parametrize("missing", ["drop", "dead-letter"])
def test_events_without_a_row_are_left_out_and_told(trades: pa.RecordBatch, missing: str) -> None:
    absent = trades.column("instrument")[0].as_py()
    asked = msgspec.convert(
        {"table": "masters", "columns": {"figi": "figi"}, "missing": missing}, Enrichment
    )
    view = view_with(Transformation(enrich=(asked,)))
    joined = view.transformation.joined(trades, masters(trades, without=absent))
    checked = check(view, joined)
    at = [n for n, name in enumerate(trades.column("instrument").to_pylist()) if name == absent]
    assert checked.broken["masters.instrument"].tolist() == at
    assert view.transformation.all_rules["masters.instrument"].severity == missing
    found = render(view, joined.events, checked=checked)
    assert found.rows.num_rows == trades.num_rows - len(at)
    assert absent not in found.rows.column("instrument").to_pylist()


def test_rules_may_ask_of_them(trades: pa.RecordBatch) -> None:
    view = view_with(
        Transformation(
            enrich=(Enrichment("masters", ALL),),
            rules={"listed": Rule("listed", "drop"), "figi": Rule("figi LIKE 'BBG%'", "drop")},
        )
    )
    tables = masters(trades, without="")
    joined = view.transformation.joined(trades, tables)
    found = render(view, joined.events, checked=check(view, joined)).rows
    listed = joined.events.column("listed").to_pylist()
    assert found.num_rows == sum(listed)
    assert set(found.column("listed").to_pylist()) == {1}


def test_views_that_take_kinds_together_get_them(trades: pa.RecordBatch) -> None:
    quotes = next(f for f in sequenced_frames(20, 200) if frame_kind(f) == "quote")
    both = mixed_batch([("trade", trades), ("quote", quotes)])
    view = view_with(Transformation(enrich=(Enrichment("masters", ALL),)), kinds="together")
    found = pa.ipc.open_stream(delivered(view, both, masters(both, without=""))).read_next_batch()
    assert found.column("figi").to_pylist() == [
        f"BBG{name}" for name in both.column("instrument").to_pylist()
    ]


@pytest.mark.parametrize("name", ["json", "csv", "avro", "msgpack", "arrow"])
def test_formats_write_and_read_them_exactly(trades: pa.RecordBatch, name: str) -> None:
    view = view_with(Transformation(enrich=(Enrichment("masters", ALL),)), name)
    tables = masters(trades, without=trades.column("instrument")[0].as_py())
    data = delivered(view, trades, tables)
    rows = view.transformation.joined(trades, tables).events
    schema = view.transformation.schema(SEQUENCED_SCHEMAS["trade"])
    assert get_format(name).decode(data, schema).to_pylist() == rows.to_pylist()
    if name == "json":
        line = json.loads(data.splitlines()[-1])
        assert line["usd"].startswith("1.5")
        assert line["listed"] in (0, 1)


def test_an_expression_says_the_types_that_it_was_compiled_with() -> None:
    tree = compile_computed("CASE WHEN listed AND lot > 5 THEN usd * 2 ELSE 0 END", REFERENCES)
    assert compile_computed(to_sql(tree), REFERENCES) == tree
    with pytest.raises(FilterError) as refused:
        compile_computed("usdd * 2", REFERENCES)
    assert (refused.value.position, refused.value.hint) == (0, "did you mean usd?")
    with pytest.raises(FilterError) as refused:
        compile_computed("1 + figi", REFERENCES)
    assert (refused.value.position, "figi is a text" in str(refused.value)) == (0, True)


@pytest.mark.parametrize(
    ("transformation", "told"),
    [
        (Transformation(enrich=(Enrichment("m", {"a": "price"}),)), "there is one already"),
        (Transformation(enrich=(Enrichment("m", {"a": "x", "b": "x"}),)), "there is one already"),
        (Transformation(enrich=(Enrichment("m", {"a": "kind"}),)), "cannot be a column's name"),
        (
            Transformation(enrich=(Enrichment("m", {"a": "x"}), Enrichment("m", {"a": "y"}))),
            "joined twice",
        ),
        (
            Transformation(
                enrich=(Enrichment("m", {"a": "x"}, types={"x": "text"}),), compute={"x": "price"}
            ),
            "would both be called",
        ),
    ],
)
def test_names_that_are_taken_are_refused(transformation: Transformation, told: str) -> None:
    with pytest.raises(TransformationError, match=told):
        transformation.validate()


def test_the_version_is_a_matter_of_the_plan_and_the_types_of_the_view() -> None:
    asked = resolved(Enrichment("masters", {"lot": "lot"}), SPEC, ())
    spec = ViewSpec(transformation=Transformation(enrich=(asked,)))
    first, second = (
        compile_plan(n, [spec], created_at_ns=0, tables={"masters": TableRef(n, str(n) * 64, 1)})
        for n in (1, 2)
    )
    assert first.views == second.views
    assert first.digest != second.digest
    assert second.tables == {"masters": TableRef(2, "2" * 64, 1)}
    other = msgspec.structs.replace(asked, types={"lot": "text"})
    assert view_of(spec).id != view_of(ViewSpec(transformation=Transformation(enrich=(other,)))).id
    with pytest.raises(UnknownTable, match="masters"):
        compile_plan(3, [spec], created_at_ns=0)


def test_plans_without_tables_are_as_they_were() -> None:
    plan = compile_plan(1, [ViewSpec()], created_at_ns=0)
    assert b"tables" not in encode_plan(plan)
    assert plan.tables is msgspec.UNSET
    assert "enrich" not in msgspec.to_builtins(Transformation())


def test_wider_events_make_smaller_messages() -> None:
    plain = view_of(ViewSpec(format="json"))
    assert max_rows(view_with(Transformation(enrich=(Enrichment("masters", ALL),)), "json")) < (
        max_rows(plain)
    )


def test_a_calendar_is_a_table_of_when_venues_open_and_close(trades: pa.RecordBatch) -> None:
    spec = TableSpec(
        {"venue": "text", "since": "time", "session": "text", "open": "boolean"},
        ("venue",),
        valid_from="since",
    )
    events = trades.to_pylist()
    times = sorted(event["ts_event"] for event in events)
    opens, closes = (times[len(times) * part // 4] for part in (1, 3))
    venues = sorted({event["venue"] for event in events})
    *known, holiday = venues
    rows = [
        *({"venue": v, "since": opens, "session": "regular", "open": 1} for v in known),
        *({"venue": v, "since": closes, "session": "closed", "open": 0} for v in venues),
    ]
    content = content_of(spec, pa.Table.from_pylist(rows, schema=schema_of(spec)))
    asked = Enrichment("calendar", {"session": "session", "open": "is_open"}, missing="drop")
    transformation = Transformation(
        enrich=(resolved(asked, spec, ()),), rules={"in-hours": Rule("is_open", "drop")}
    )
    transformation.validate()
    view = view_of(
        ViewSpec(
            transformation=transformation.canonical(),
            format="arrow",
            conditions=dict(transformation.conditions()),
        )
    )
    data = delivered(view, trades, {"calendar": ReferenceTable(read_content(content.data))})
    found = pa.ipc.open_stream(data).read_next_batch().to_pylist()
    wanted = [e for e in events if e["venue"] != holiday and opens <= e["ts_event"] < closes]
    assert 0 < len(wanted) < len(events)
    assert [row["sequence"] for row in found] == [event["sequence"] for event in wanted]
    assert {row["session"] for row in found} == {"regular"}
