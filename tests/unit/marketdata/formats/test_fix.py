"""FIX messages as a parser that is not ours reads them, and what is refused when they are read."""

import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import simplefix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketdata.formats import FormatError, get_format
from marketdata.formats import fix_tags as tags
from marketdata.frames import frame_kind
from marketdata.schemas import KINDS, SEQUENCED_SCHEMAS, decimal_scale
from marketdata.transformations import Transformation

sys.path.insert(0, str(Path(__file__).parents[1] / "filters"))

from strategies import batches, column_of

THOROUGH = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
FIX = get_format("fix")


def parsed(data: bytes) -> list[simplefix.FixMessage]:
    """The messages; each is proven to have the length and the checksum that the parser makes."""
    parser = simplefix.FixParser()
    parser.append_buffer(data)
    messages = []
    while (message := parser.get_message()) is not None:
        messages.append(message)
    assert parser.get_buffer() == b""
    assert b"".join(message.encode() for message in messages) == data
    return messages


def events(kind: str, **columns: list[Any]) -> pa.RecordBatch:
    """Events with the given values; what is not given is null, or 0 or "X" where it may not be."""
    rows = len(next(iter(columns.values())))
    arrays = []
    for field in SEQUENCED_SCHEMAS[kind]:
        least = "X" if pa.types.is_dictionary(field.type) else 0
        absent = None if field.nullable else least
        arrays.append(column_of(field, columns.get(field.name, [absent] * rows)))
    return pa.RecordBatch.from_arrays(arrays, schema=SEQUENCED_SCHEMAS[kind])


def entries(message: simplefix.FixMessage) -> Iterator[dict[int, str]]:
    """The market data entries: a group begins with 279, or in a snapshot with 269."""
    first = 279 if message.get(35) == b"X" else 269
    entry: dict[int, str] | None = None
    for tag, value in message:
        if int(tag) == first:
            if entry is not None:
                yield entry
            entry = {}
        if entry is not None and int(tag) != 10:
            entry[int(tag)] = value.decode()
    if entry is not None:
        yield entry


PLACES = {
    "trade": {"price": ("2", 270), "size": ("2", 271)},
    "quote": {
        "bid_price": ("0", 270),
        "bid_size": ("0", 271),
        "ask_price": ("1", 270),
        "ask_size": ("1", 271),
    },
    "bar": {
        "open": ("4", 270),
        "high": ("7", 270),
        "low": ("8", 270),
        "close": ("5", 270),
        "volume": ("B", 271),
        "vwap": ("9", 270),
    },
}
"""Kind -> price or size -> 269 of its entry, and its tag there."""


@THOROUGH
@given(batches(finite=True))
def test_simplefix_reads_the_exact_values(batch: pa.RecordBatch) -> None:
    kind = frame_kind(batch)
    messages = parsed(FIX.encode(batch))
    assert len(messages) == batch.num_rows
    kinds_of_message = {"quote": b"W", "status": b"f"}
    values = {
        name: (
            column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column
        ).to_pylist()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }
    for row, message in enumerate(messages):
        event = {name: some[row] for name, some in values.items()}
        assert message.get(8) == b"FIX.4.4"
        assert message.get(35) == kinds_of_message.get(kind, b"X")
        assert message.get(34) == str(event["sequence"]).encode()
        assert message.get(60).decode() == time(event["ts_event"])
        assert message.get(52).decode() == time(event["ts_publish"])
        assert said(message.get(55)) == event["instrument"]
        assert said(message.get(207)) == event["venue"]
        assert said(message.get(5006)) == event["region"]
        found = list(entries(message))
        assert len(found) == (0 if kind == "status" else int(message.get(268)))
        by_type = {entry[269]: entry for entry in found}
        for name, (type_, tag) in PLACES.get(kind, {}).items():
            text = by_type.get(type_, {}).get(tag)
            scale = decimal_scale(batch.schema.field(name)) or 0
            value = None if text is None else int(Decimal(text).scaleb(scale))
            assert value == event[name]


def said(value: bytes | None) -> str | None:
    """A text without its escapes, undone another way than ours."""
    if value is None:
        return None
    parts = value.decode().split("\\\\")
    return "\\".join(part.replace("\\1", "\x01").replace("\\0", "") for part in parts)


def time(ns: int) -> str:
    seconds, nanos = divmod(ns, 10**9)
    whole = pa.scalar(seconds, pa.timestamp("s")).as_py()
    return f"{whole:%Y%m%d-%H:%M:%S}.{nanos:09d}"


@settings(max_examples=100)
@given(st.lists(st.text("\\\x01=01|\x00a\n€", max_size=6), min_size=1, max_size=5))
def test_any_text_keeps_to_its_field(texts: list[str]) -> None:
    batch = events("trade", trade_id=texts, conditions=texts)
    messages = parsed(FIX.encode(batch))
    assert [said(message.get(278)) for message in messages] == texts
    assert [said(message.get(277)) for message in messages] == texts
    assert FIX.decode(FIX.encode(batch)).to_pylist() == batch.to_pylist()


def test_null_has_no_tag_and_is_not_the_empty_text() -> None:
    null, empty = parsed(FIX.encode(events("trade", trade_id=[None, ""])))
    assert null.get(278) is None
    assert empty.get(278) == b"\\0"


def test_a_snapshot_counts_the_sides_that_there_are() -> None:
    batch = events("quote", bid_price=[1, None, None], ask_size=[1, 1, None])
    found = [list(entries(message)) for message in parsed(FIX.encode(batch))]
    assert found == [
        [{269: "0", 270: "0.000000001"}, {269: "1", 271: "0.00000001"}],
        [{269: "1", 271: "0.00000001"}],
        [],
    ]
    assert FIX.decode(FIX.encode(batch)).to_pylist() == batch.to_pylist()


def test_a_bar_without_prices_still_names_its_instrument() -> None:
    (message,) = parsed(FIX.encode(events("bar", interval_ns=[60_000_000_000])))
    assert list(entries(message)) == [{279: "0", 269: "4", 55: "X", 207: "X"}]
    assert message.get(5008) == b"60000000000"


def test_what_happens_to_the_book_shows_in_standard_tags() -> None:
    actions = ["add", "modify", "cancel", "clear", "trade", None, "add"]
    sides = ["buy", "sell", "buy", "sell", "sell", "buy", None]
    batch = events("book", action=actions, side=sides, order_id=[7] * 7, level=[1] * 7)
    found = [next(entries(message)) for message in parsed(FIX.encode(batch))]
    told = [(entry[279], entry[269], entry[37], entry[290]) for entry in found]
    assert told == [
        ("0", "0", "7", "1"),
        ("1", "1", "7", "1"),
        ("2", "0", "7", "1"),
        ("2", "J", "7", "1"),
        ("1", "1", "7", "1"),
        ("1", "0", "7", "1"),
        ("0", "z", "7", "1"),
    ]


def test_statuses_and_statistics_show_in_standard_tags_and_exactly() -> None:
    statuses = ["trading", "halted", "pre_open", "auction", "closed", "odd", None]
    messages = parsed(FIX.encode(events("status", status=statuses, reason=["news"] * 7)))
    assert [m.get(326) for m in messages] == [b"17", b"2", b"21", b"22", b"18", b"20", b"20"]
    assert [said(m.get(5011)) for m in messages] == statuses
    assert {m.get(58) for m in messages} == {b"news"}
    names = ["settlement", "open_interest", "session_high", "odd", None]
    messages = parsed(FIX.encode(events("statistic", statistic=names, value=[5] * 5)))
    assert [next(entries(m))[269] for m in messages] == ["6", "C", "7", "z", "z"]
    assert [said(m.get(5012)) for m in messages] == names


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_view_leaves_out_has_no_tag(kind: str) -> None:
    chosen = Transformation(("instrument", "ts_event"), {})
    batch = chosen.apply(events(kind, ts_event=[1, 2]))
    messages = parsed(FIX.encode(batch))
    assert [message.get(60)[-3:] for message in messages] == [b"001", b"002"]
    for tag in (34, 49, 52, 207, 270, 271, 5002):
        assert all(message.get(tag) is None for message in messages)
    back = FIX.decode(FIX.encode(batch), chosen.schema(SEQUENCED_SCHEMAS[kind]))
    assert back.to_pylist() == batch.to_pylist()


def test_every_column_has_one_tag_that_never_changes() -> None:
    for kind, schema in SEQUENCED_SCHEMAS.items():
        assert tags.COLUMNS_OF_KIND[kind] == set(schema.names)
    own = {tag: name for body in tags.BODY.values() for tag, name in body.items() if tag > 5000}
    assert list(own.items()) == [
        (5001, "source_sequence"),
        (5002, "epoch"),
        (5003, "ts_sequenced"),
        (5004, "quality"),
        (5005, "quality_flags"),
        (5006, "region"),
        (5007, "side"),
        (5008, "interval_ns"),
        (5009, "trade_count"),
        (5010, "action"),
        (5011, "status"),
        (5012, "statistic"),
    ]


def test_renamed_columns_are_refused_both_ways() -> None:
    renamed = Transformation(rename={"price": "px"})
    with pytest.raises(FormatError, match="cannot rename"):
        FIX.encode(renamed.apply(events("trade", price=[1])))
    data = FIX.encode(events("trade", price=[1]))
    with pytest.raises(FormatError, match="cannot rename"):
        FIX.decode(data, renamed.schema(SEQUENCED_SCHEMAS["trade"]))


def message(*fields: tuple[int, str]) -> bytes:
    """A whole message, as another library makes it."""
    made = simplefix.FixMessage()
    made.append_pair(8, "FIX.4.4")
    for tag, value in fields:
        made.append_pair(tag, value)
    data: bytes = made.encode()
    return data


TRADE = ((35, "X"), (5000, "trade"), (268, "1"), (279, "0"), (269, "2"))
GOOD = message(*TRADE, (270, "187.25"))


def test_tags_that_hold_no_column_are_passed_over() -> None:
    batch = FIX.decode(message(*TRADE, (270, "187.25"), (9999, "x")))
    assert batch.column("price").to_pylist() == [187_250_000_000]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GOOD.replace(b"187.25", b"187.26"), "another checksum"),
        (GOOD.replace(b"187.25", b"187.250"), "does not end where 9="),
        (GOOD[:-1], "does not end where 9="),
        (GOOD + b"x", f"no FIX message begins at byte {len(GOOD)}"),
        (GOOD.replace(b"FIX.4.4", b"FIX.4.2"), "no FIX message begins at byte 0"),
        (GOOD + message((35, "W"), (5000, "quote")), "events of one kind"),
        (message((35, "0")), "no event of a known kind"),
        (message(*TRADE, (270, "1e3")), "not a decimal number"),
        (message(*TRADE, (271, "0.123456789")), "more than 8 digits"),
        (message(*TRADE, (270, "9300000000")), "column 'price'"),
        (message((60, "20260131-25:00:00.000000000"), *TRADE), "column 'ts_event'"),
        (message((60, "2026-01-31"), *TRADE), "not of the form"),
        (message((5001, "1_0"), *TRADE), "not a whole number"),
        (message((5006, "\\9"), *TRADE), "unknown escape"),
    ],
)
def test_broken_messages_are_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        FIX.decode(data)


@pytest.mark.parametrize(
    ("field", "reason"), [(b"nothing", "tag=value"), (b"5006=\xff", "UTF-8"), (b"x=1", "tag=value")]
)
def test_broken_fields_are_refused_with_the_reason(field: bytes, reason: str) -> None:
    body = b"35=X\x01" + field + b"\x01"
    head = b"8=FIX.4.4\x019=%d\x01" % len(body) + body
    with pytest.raises(FormatError, match=reason):
        FIX.decode(head + b"10=%03d\x01" % (sum(head) % 256))
