"""What a consumer hands out: a message decoded to a frame, or the error that says why not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from marketdata.control_frames import CONTROL_KINDS
from marketdata.errors import DistributionError
from marketdata.findings import Finding
from marketdata.formats import FormatError, get_format
from marketdata.formats.registry import event_format
from marketdata.frames import read_frame
from marketdata.positions import Position
from marketdata.schemas import SEQUENCED_SCHEMAS, decimal_scale
from marketdata.transformations import Transformation

_NOTHING: Final = pa.RecordBatch.from_arrays([], schema=pa.schema([]))


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it was delivered.

    Attributes:
        batch: the events.
        properties: the message's properties, all strings (kind, count, format, plan, view …).
        partition: of the topic.
        topic: the partition's own topic.
        message_id: Pulsar's, for `Consumer.seek`. To keep it, store `message_id.serialize()` and
            `topic`, and restore with `pulsar.MessageId.deserialize(data, topic)`. None for events
            filled from the log: no message of this topic holds them.
        received_at_ns: when this process took it over, nanoseconds since the epoch, UTC.
        redelivered: it was handed out before and not acknowledged.
        findings: what its sequences say; empty when all is well.
        filled: its events were missing and have been read again; they stand where they belong.
    """

    batch: pa.RecordBatch
    properties: Mapping[str, str]
    partition: int
    topic: str
    message_id: Any
    received_at_ns: int
    redelivered: bool = False
    findings: tuple[Finding, ...] = ()
    filled: bool = False

    @property
    def kind(self) -> str:
        """The kind of its events."""
        return self.properties.get("kind", "")

    @property
    def is_control(self) -> bool:
        """Whether it is a heartbeat or an epoch frame: its batch holds no event."""
        return self.kind in CONTROL_KINDS

    @property
    def delivery_sequence(self) -> int | None:
        """The delivery sequence of the first event; None outside `delivery` topics."""
        text = self.properties.get("delivery_sequence")
        return None if text is None else int(text)

    @property
    def delivery_epoch(self) -> int:
        """The epoch of the delivery sequences; 0 outside `delivery` topics."""
        return int(self.properties.get("delivery_epoch", "0"))

    def events(self) -> Iterator[dict[str, Any]]:
        """The events as dictionaries: `kind` and the columns.

        Prices and sizes are `Decimal` in units, times integers of nanoseconds, missing is None.
        """
        if self.is_control:
            return
        columns = {
            field.name: _values(field, column)
            for field, column in zip(self.batch.schema, self.batch.columns, strict=True)
        }
        for row in zip(*columns.values(), strict=True):
            yield {"kind": self.kind, **dict(zip(columns, row, strict=True))}


class BadFrame(DistributionError):
    """A message that cannot be decoded. `Consumer.ack(error)` skips it."""

    def __init__(self, partition: int, message_id: Any, reason: str) -> None:
        super().__init__(
            f"message {message_id} of partition {partition} is no frame: {reason};"
            " acknowledge this error to skip the message"
        )
        self.partition = partition
        self.message_id = message_id


class ContinuityBroken(DistributionError):
    """A strict consumer met a gap, a repeat or a reversal in `frame`, which is not acknowledged."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(
            f"partition {frame.partition}, message {frame.message_id}:"
            f" {'; '.join(map(str, frame.findings[:5]))}. The frame is in `.frame`;"
            " acknowledge it to go on, or seek back"
        )
        self.frame = frame


def decode_payload(
    data: bytes, properties: Mapping[str, str], transformation: Transformation | None = None
) -> pa.RecordBatch:
    """The rows of a message, by the format that its properties name (Arrow without one).

    Args:
        data: the message's payload.
        properties: the message's properties.
        transformation: of the view; formats without a schema of their own need it to read renamed
            and computed columns.

    Raises:
        InvalidFrame, FormatError: the payload is not of that format, or the format is unknown or
            fails in whatever way.
    """
    name = properties.get("format", "arrow")
    if not data and properties.get("kind") in CONTROL_KINDS:
        return _NOTHING
    if name == "arrow":
        return read_frame(data)
    whole = SEQUENCED_SCHEMAS.get(properties.get("kind", ""))
    schema = None if transformation is None or whole is None else transformation.schema(whole)
    format_ = get_format(name)
    try:
        if properties.get("granularity") == "event":
            batch = event_format(name).decode_one(data, properties["kind"], schema)
        else:
            batch = format_.decode(data, schema)
    except DistributionError:
        raise
    except Exception as error:
        # Formats may be installed by others.
        raise FormatError(f"format {name!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(batch, pa.RecordBatch):
        raise FormatError(f"format {name!r} gave {type(batch).__name__}, not a record batch")
    return batch


def position_of(message_id: Any) -> Position:
    """A message id's place in its partition."""
    return Position(message_id.ledger_id(), message_id.entry_id(), max(0, message_id.batch_index()))


def _values(field: pa.Field, column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(field.type):
        nanoseconds = column.cast(pa.timestamp("ns", tz=field.type.tz))
        return list(nanoseconds.view(pa.int64()).to_pylist())
    scale = decimal_scale(field)
    values: list[Any] = column.to_pylist()
    if scale is None or not pa.types.is_integer(field.type):
        return values
    return [None if value is None else Decimal(value).scaleb(-scale) for value in values]
