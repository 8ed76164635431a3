"""What a message of a view holds, and how many events fit."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from functions.operators.render import MOST_TOGETHER, max_rows, render
from marketdata.formats import formats, get_format
from marketdata.formats.registry import LEAST_ROWS
from marketdata.frames import MAX_MESSAGE_BYTES
from marketdata.plans import Delivery, View, ViewSpec, view_of
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import MAX_COMPUTED, PROVING, Transformation


def view_that(format_: str, **compute: str) -> View:
    transformation = Transformation(compute=compute)
    return view_of(
        ViewSpec(
            transformation=transformation.canonical(),
            computed=dict(transformation.compiled()),
            format=format_,
        )
    )


def bars(rows: int) -> pa.RecordBatch:
    """Bars that are as wide as bars of real instruments are."""
    columns = []
    for field in SEQUENCED_SCHEMAS["bar"]:
        if pa.types.is_dictionary(field.type):
            values = pa.array(["XNAS"] * rows).dictionary_encode().cast(field.type)
        elif pa.types.is_timestamp(field.type):
            values = pa.array([1_700_000_000_123_456_789] * rows, pa.int64()).view(field.type)
        elif pa.types.is_integer(field.type):
            low = 187_250_000_000 if field.metadata else 1_000_000
            values = pa.array(range(low, low + rows), field.type)
        else:
            values = pa.nulls(rows, field.type)
        columns.append(values)
    return pa.RecordBatch.from_arrays(columns, schema=SEQUENCED_SCHEMAS["bar"])


@pytest.mark.parametrize("name", sorted(formats()))
def test_a_view_that_computes_nothing_has_messages_of_its_formats_size(name: str) -> None:
    assert max_rows(view_that(name)) == get_format(name).max_rows


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_the_longest_names_fit_a_message(name: str) -> None:
    columns = [c for c in SEQUENCED_SCHEMAS["bar"].names if c not in PROVING]
    rename = {column: f"{column}_".ljust(63, "x") for column in columns}
    view = view_of(ViewSpec(transformation=Transformation(rename=rename), format=name))
    rows = max_rows(view)
    assert 1 <= rows < get_format(name).max_rows
    assert len(render(view, bars(rows)).messages[0]) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    "transformation",
    [
        Transformation(rename={"price": "px", "size": "quantity"}),
        Transformation(rename={"high": "high_price", "low": "low_price", "open": "open_price"}),
        Transformation(rename={"price": "x" * 63}),
        Transformation(select=("instrument", "sequence", "high"), rename={"high": "x" * 63}),
    ],
)
@pytest.mark.parametrize("name", ["arrow", "avro", "csv", "json", "msgpack"])
def test_a_few_new_names_move_no_cut(name: str, transformation: Transformation) -> None:
    view = view_of(ViewSpec(transformation=transformation, format=name))
    assert max_rows(view) == get_format(name).max_rows


@pytest.mark.parametrize("name", sorted(name for name in formats() if get_format(name).renames))
def test_texts_that_are_escaped_fit_a_message(name: str) -> None:
    compute = {f"c{n:02}": "'" + "\x01" * 3000 + "'" for n in range(MAX_COMPUTED)}
    view = view_that(name, **compute)
    rows = max_rows(view)
    assert LEAST_ROWS <= rows < get_format(name).max_rows
    assert len(render(view, bars(rows)).messages[0]) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize("most", [8, 9, 100, 3_000, 20_000, 32_768])
@pytest.mark.parametrize("compute", [{}, {"x": "high * 2"}, {f"x{n}": "venue" for n in range(32)}])
def test_messages_hold_at_least_eight_events_and_never_more_than_their_format_allows(
    monkeypatch: pytest.MonkeyPatch, most: int, compute: dict[str, str]
) -> None:
    monkeypatch.setattr(
        "functions.operators.render.format_of_view", lambda _: SimpleNamespace(max_rows=most)
    )
    assert LEAST_ROWS <= max_rows(view_that("any", **compute)) <= most


@pytest.mark.parametrize("name", sorted(name for name in formats() if get_format(name).renames))
@pytest.mark.parametrize("sql", ["high * 0.123456789", "'{}'", "upper(instrument)"])
def test_the_widest_computed_columns_fit_a_message(name: str, sql: str) -> None:
    wide = sql.format("x" * 3000)
    view = view_that(name, **{f"c{n:02}".ljust(63, "_"): wide for n in range(MAX_COMPUTED)})
    rows = max_rows(view)
    assert 1 <= rows < get_format(name).max_rows
    assert len(render(view, bars(rows)).messages[0]) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize("name", ["json", "avro", "protobuf", "csv", "msgpack", "fix"])
def test_single_events_are_as_many_messages_with_room_for_their_properties(name: str) -> None:
    view = view_of(ViewSpec(format=name, delivery=Delivery(granularity="event")))
    rows = max_rows(view)
    messages = render(view, bars(rows)).messages
    assert len(messages) == rows <= MOST_TOGETHER
    assert sum(map(len, messages)) + rows * 512 <= MAX_MESSAGE_BYTES


def test_no_message_of_a_view_has_more_events_than_it_allows() -> None:
    assert max_rows(view_of(ViewSpec(delivery=Delivery(max_events=100)))) == 100
    assert max_rows(view_of(ViewSpec(format="json", delivery=Delivery(max_events=32_768)))) == 8_192
