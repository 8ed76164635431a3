"""What a consumer makes of a message, without a broker."""

from decimal import Decimal

import pyarrow as pa
import pytest

from marketdata.consumer import Frame, decode_payload
from marketdata.control_frames import NEXT_SEQUENCES
from marketdata.errors import InvalidFrame
from marketdata.formats import FormatError, get_format
from marketdata.frames import encode_frame
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import Transformation

TRADE = {
    "instrument": "AAPL",
    "venue": "XNAS",
    "source": "test",
    "ts_event": 1_700_000_000_123_456_789,
    "ts_publish": 1,
    "sequence": 7,
    "epoch": 1,
    "ts_sequenced": 2,
    "price": -187_250_000_001,
    "size": 100_00000000,
}
BATCH = pa.RecordBatch.from_pylist([TRADE], schema=SEQUENCED_SCHEMAS["trade"])


def test_events_carry_exact_prices_and_nanoseconds() -> None:
    frame = Frame(BATCH, {"kind": "trade", "delivery_sequence": "5"}, 0, "topic", None, 0)
    (event,) = frame.events()
    assert event["kind"] == "trade"
    assert event["price"] == Decimal("-187.250000001")
    assert event["size"] == Decimal(100)
    assert event["ts_event"] == 1_700_000_000_123_456_789
    assert event["side"] is None
    assert frame.delivery_sequence == 5


def test_a_frame_without_delivery_sequence_has_none() -> None:
    frame = Frame(BATCH, {}, 0, "topic", None, 0)
    assert (frame.kind, frame.delivery_sequence) == ("", None)


def test_payloads_are_read_by_the_format_they_name() -> None:
    arrow = encode_frame(BATCH).to_pybytes()
    json = get_format("json").encode(BATCH)
    assert decode_payload(arrow, {}) == BATCH
    assert decode_payload(arrow, {"format": "arrow"}) == BATCH
    assert decode_payload(json, {"format": "json", "kind": "trade"}) == BATCH


def test_renamed_json_columns_are_read_with_the_views_transformation() -> None:
    transformation = Transformation(select=("instrument", "price"), rename={"price": "px"})
    json = get_format("json").encode(transformation.apply(BATCH))
    properties = {"format": "json", "kind": "trade"}
    batch = decode_payload(json, properties, transformation)
    assert batch.to_pylist() == [{"instrument": "AAPL", "px": -187_250_000_001}]
    with pytest.raises(FormatError, match="px"):
        decode_payload(json, properties)


def test_what_is_no_frame_is_refused() -> None:
    with pytest.raises(InvalidFrame):
        decode_payload(b"rubbish", {})
    with pytest.raises(FormatError, match="unknown format"):
        decode_payload(b"", {"format": "morse"})


def test_a_control_frame_carries_no_event() -> None:
    properties = {"kind": "heartbeat", "count": "0", "format": "json"}
    batch = decode_payload(b"", properties)
    assert (batch.num_rows, batch.num_columns) == (0, 0)
    upcoming = pa.RecordBatch.from_pylist(
        [{"instrument": "AAPL", "sequence": 8, "epoch": 1}], schema=NEXT_SEQUENCES
    )
    properties = {"kind": "heartbeat", "count": "0"}
    assert decode_payload(encode_frame(upcoming).to_pybytes(), properties) == upcoming
    frame = Frame(upcoming, properties, 0, "topic", None, 0)
    assert frame.is_control
    assert list(frame.events()) == []
