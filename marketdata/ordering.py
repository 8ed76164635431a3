"""What the sequencer finds in the order of its sources, and how missing events are asked for.

A *source* numbers its events per instrument (`source_sequence`); the sequencer compares the numbers
that arrive with those before. Findings are published on `control/ordering`, a partitioned topic:
one message for a frame of `sequenced` that shows any, its payload a JSON array of `OrderingEvent`,
its properties `count` (the array's length) and `position` (the frame's), its partition that of the
log. They are exactly once and in log order. A `ResendRequest` goes to `control/resend` as JSON,
keyed `source/instrument`, for each gap that opens, at least once (a repeat has the same `gap_id`);
an upstream that can resend answers by publishing the missing events under their source sequences
(`Publisher.publish(..., fill=True)`), which closes the gap.
"""

import base64
import binascii
import zlib
from typing import Final, Literal

import msgspec

from marketdata.errors import InvalidFrame

FILL_PROPERTY: Final = "fill"
"""Message property (value `1`) of ingest frames that answer a resend request."""

ORDERING_PROPERTY: Final = "ordering"
"""Message property of frames of `sequenced` that show something: what `control/ordering` will say
of them. It is stored with the frame, so that after a crash it can be published from there."""

MAX_EVENTS: Final = 1_000
"""Most findings of one message; what is beyond is summed up in one more of each type."""

OrderingEventType = Literal[
    "gap_opened", "gap_closed", "reversal", "repeat", "late_event", "source_reset", "epoch_changed"
]
SourcePolicyName = Literal["pass", "hold", "drop_repeats", "reject"]


class SourcePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the sequencer does with events of a source that are out of order.

    Attributes:
        policy: `pass` marks and goes on; `hold` waits for what is missing, then releases in order,
            and drops repeats; `drop_repeats` drops what came before and passes the rest; `reject`
            dead-letters frames that hold a reversal or a repeat.
        hold_ms: how long an event waits at most for those before it.
        hold_rows: how many events of a partition wait at most, of all sources together.
        late_after_ms: an event whose `ts_event` is this much before the newest one of its source
            and instrument is reported as late; None never.
    """

    policy: SourcePolicyName = "pass"
    hold_ms: int = 200
    hold_rows: int = 65_536
    late_after_ms: int | None = None


class OrderingEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """One finding.

    Attributes:
        id: `partition:position:n`, unique and the same whenever the finding is derived again.
        type: `gap_opened` (`first`…`last` are missing), `gap_closed` (`first`…`last` of the gap
            `gap_id` came, or were given up), `reversal` (they came after later ones), `repeat`
            (they came before), `late_event` (`ts_event` is far behind), `source_reset` (the source
            began again at `first`), `epoch_changed` (the sequences of the partition start anew;
            `instrument` and `source` are empty).
        partition, position: of the frame of `sequenced` that tells of it; the position is that of
            the last input which that frame holds.
        instrument, source: whose numbers these are; both empty for `epoch_changed`, and where one
            event sums up many that one message has no room for (`reason` says so).
        first, last: source sequences, both included; 0 for `epoch_changed` and `late_event`
            without them.
        events: how many events are behind the finding (missing ones for gaps).
        sequence: our sequence of the event that showed it; 0 where there is none.
        epoch: in which `sequence` is valid.
        ts_event_ns: of that event; detected_at_ns: when the sequencer saw it. Nanoseconds, UTC.
        gap_id: of `gap_opened` and `gap_closed`: the id of the opening.
        closed_by: of `gap_closed`: `late_arrival`, `fill` or `reset`.
        remaining: of `gap_closed`: how many of the gap are still missing; 0 when it is closed.
        action: what the policy did with the events: `passed`, `held`, `dropped` or `rejected`.
        reason: for people; always given for `epoch_changed`.
    """

    id: str
    type: OrderingEventType
    partition: int
    position: int
    instrument: str
    source: str
    first: int
    last: int
    events: int
    epoch: int
    ts_event_ns: int
    detected_at_ns: int
    sequence: int = 0
    gap_id: str = ""
    closed_by: Literal["", "late_arrival", "fill", "reset"] = ""
    remaining: int = 0
    action: Literal["", "passed", "held", "dropped", "rejected"] = ""
    reason: str = ""


class ResendRequest(msgspec.Struct, frozen=True):
    """Events that a source is asked to send again.

    Attributes:
        gap_id: the gap to close.
        source, instrument: whose events.
        first, last: source sequences, both included.
        requested_at_ns: nanoseconds since the epoch, UTC.
    """

    gap_id: str
    source: str
    instrument: str
    first: int
    last: int
    requested_at_ns: int


_encoder: Final = msgspec.json.Encoder()
_events: Final = msgspec.json.Decoder(list[OrderingEvent])
_request: Final = msgspec.json.Decoder(ResendRequest)


def encode_ordering_events(events: list[OrderingEvent]) -> bytes:
    """The payload of a message on `control/ordering`."""
    return _encoder.encode(events)


def decode_ordering_events(data: bytes) -> list[OrderingEvent]:
    """The findings in a message of `control/ordering`.

    Raises:
        msgspec.ValidationError: the bytes are none.
    """
    return _events.decode(data)


def ordering_property(events: list[OrderingEvent]) -> str:
    """Findings as a message property."""
    return base64.b85encode(zlib.compress(_encoder.encode(events), 1)).decode("ascii")


def read_ordering_property(text: str) -> list[OrderingEvent]:
    """The findings in a message property.

    Raises:
        InvalidFrame: the text holds none.
    """
    try:
        return _events.decode(zlib.decompress(base64.b85decode(text)))
    except (ValueError, binascii.Error, zlib.error, msgspec.MsgspecError) as error:
        raise InvalidFrame(
            "undecodable", f"the findings of a frame are damaged: {error}"
        ) from error


def encode_resend_request(request: ResendRequest) -> bytes:
    """The payload of a message on `control/resend`."""
    return _encoder.encode(request)


def decode_resend_request(data: bytes) -> ResendRequest:
    """The request in a message of `control/resend`.

    Raises:
        msgspec.ValidationError: the bytes are none.
    """
    return _request.decode(data)
