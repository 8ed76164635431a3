"""Frames at the edges: no events, long texts, columns that are not there, broken bytes."""

import msgspec
import pyarrow as pa
import pytest

from marketdata.formats import FormatError, formats, get_format
from marketdata.formats.events import batch_of, schema_of
from marketdata.formats.protobuf_schemas import proto_file
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import Transformation

EVERY = sorted(formats())
WITHOUT_ROWS = ("avro", "csv", "msgpack", "protobuf")


def trades(**columns: list[object]) -> pa.RecordBatch:
    """Trades with the given values; what is not given is null, or 0 or "X" where it may not be."""
    rows = len(next(iter(columns.values())))
    events = []
    for row in range(rows):
        event: dict[str, object] = {}
        for field in SEQUENCED_SCHEMAS["trade"]:
            absent = "X" if pa.types.is_dictionary(field.type) else 0
            event[field.name] = None if field.nullable else absent
        events.append(event | {name: values[row] for name, values in columns.items()})
    return batch_of(events, SEQUENCED_SCHEMAS["trade"])


@pytest.mark.parametrize("name", EVERY)
def test_a_message_without_events_is_empty_or_a_frame_without_rows(name: str) -> None:
    data = get_format(name).no_events()
    assert not data or get_format(name).decode(data).num_rows == 0


@pytest.mark.parametrize("name", WITHOUT_ROWS)
def test_a_batch_without_rows_has_no_events(name: str) -> None:
    data = get_format(name).encode(trades(price=[1]).slice(0, 0))
    assert len(data) < len(get_format(name).encode(trades(price=[1])))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("length", [0, 1, 31, 32, 64, 65, 255, 256, 70_000])
@pytest.mark.parametrize("column", ["trade_id", "conditions"])
def test_texts_of_any_length_with_and_without_nulls(name: str, length: int, column: str) -> None:
    long, short = "ß" * (length // 2) + "x" * (length % 2), "y"
    for values in ([long, short, long], [long, None, short], [None, long, long], [long], [None]):
        batch = trades(**{column: values})
        back = get_format(name).decode(get_format(name).encode(batch))
        assert back.column(column).to_pylist() == values
        assert back.equals(batch) or back.to_pylist() == batch.to_pylist()


@pytest.mark.parametrize("name", EVERY)
def test_slices_are_written_from_their_own_first_row(name: str) -> None:
    batch = trades(
        price=[10, None, -30, 4, 5],
        trade_id=["a", "bb", None, "dddd", ""],
        side=["buy", None, "sell", "buy", "sell"],
        quality=[0.5, None, 0.25, 1.0, 0.0],
        sequence=[1, 2, 300, 70_000, 2**64 - 1],
    )
    for start, length in ((1, 3), (2, 1), (3, 2)):
        piece = batch.slice(start, length)
        back = get_format(name).decode(get_format(name).encode(piece))
        assert back.to_pylist() == piece.to_pylist()


@pytest.mark.parametrize("name", [name for name in EVERY if name != "arrow"])
def test_columns_of_other_types_are_refused(name: str) -> None:
    field = pa.field("price", pa.date32())
    schema = pa.schema([field], SEQUENCED_SCHEMAS["trade"].metadata)
    batch = pa.RecordBatch.from_arrays([pa.array([1], pa.int32()).view(pa.date32())], schema=schema)
    with pytest.raises(FormatError, match="no form for date32"):
        get_format(name).encode(batch)


def test_avro_refuses_nulls_that_the_schema_forbids() -> None:
    schema = SEQUENCED_SCHEMAS["trade"]
    at = schema.get_field_index("epoch")
    columns = trades(price=[1]).columns
    columns[at] = pa.array([None], pa.uint32())
    with pytest.raises(FormatError, match="'epoch' is null"):
        get_format("avro").encode(pa.RecordBatch.from_arrays(columns, schema=schema))


def test_swapped_names_have_an_avro_schema_of_their_own() -> None:
    """Arrow holds the two Arrow schemas equal: they differ in units alone."""
    swapped = Transformation(("price", "size", "instrument", "sequence"), {})
    renamed = Transformation(swapped.select, {"price": "size", "size": "price"})
    batch = trades(price=[1], size=[2])
    order = ("size", "price", "instrument", "sequence")
    for one in (swapped, renamed, Transformation(order, {})):
        view = one.apply(batch)
        back = get_format("avro").decode(get_format("avro").encode(view), view.schema)
        assert back.to_pylist() == view.to_pylist()


@pytest.mark.parametrize("name", ["avro", "csv", "json", "msgpack"])
def test_renamed_columns_need_their_schema(name: str) -> None:
    data = get_format(name).encode(Transformation(rename={"price": "px"}).apply(trades(price=[1])))
    with pytest.raises(FormatError, match="pass the schema"):
        get_format(name).decode(data)


def test_protobuf_refuses_renamed_columns_both_ways() -> None:
    renamed = Transformation(rename={"price": "px"})
    with pytest.raises(FormatError, match="cannot rename"):
        get_format("protobuf").encode(renamed.apply(trades(price=[1])))
    data = get_format("protobuf").encode(trades(price=[1]))
    with pytest.raises(FormatError, match="cannot rename"):
        get_format("protobuf").decode(data, renamed.schema(SEQUENCED_SCHEMAS["trade"]))


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\xff" * 12,
        b"\x05\x0a\x00",
        b"\x02\x0a\x05",
        b"\x00",
        b"\x02\x0a\x00\x02\x12\x00",
        b"",
    ],
)
def test_broken_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        get_format("protobuf").decode(data)


@pytest.mark.parametrize(
    "events",
    [
        [{"kind": "trade"}, {"kind": "quote"}],
        [{"kind": "nope"}],
        [{"kind": "trade", "px": 1}],
        [{"kind": "trade", "bid_price": 1}],
        [{"kind": "trade", "price": 1}, {"kind": "trade"}],
        [{"kind": "trade", "price": "1"}],
        [{"kind": "trade", "price": 2**63}],
        [],
    ],
)
def test_messagepack_that_holds_no_frame_is_refused(events: list[dict[str, object]]) -> None:
    with pytest.raises(FormatError):
        get_format("msgpack").decode(msgspec.msgpack.encode(events))


@pytest.mark.parametrize(
    "text",
    [
        'price\n"1"\n',
        'kind,price\n"trade",1\n"quote",1\n',
        'kind,price\n"trade",9300000000\n',
        'kind,ts_event\n"trade",yesterday\n',
    ],
)
def test_csv_that_holds_no_frame_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        get_format("csv").decode(text.encode())


def test_columns_of_another_kind_are_not_of_this_one() -> None:
    with pytest.raises(FormatError, match="have no columns"):
        schema_of("trade", ["bid_price"])


def test_the_proto_file_states_units() -> None:
    text = proto_file()
    assert "optional sfixed64 price = 13;  // 1e-9" in text
    assert "optional sfixed64 size = 14;  // 1e-8" in text
    assert "optional sfixed64 ts_event = 5;  // ns since the epoch, UTC" in text
