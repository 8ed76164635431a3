"""Control frames: messages among the events of `sequenced` and of views that carry no event.

Two kinds exist. A *heartbeat* says in idle time which numbers come next, so that a loss at the end
of a burst is seen without waiting for the next event (as MoldUDP64 does). An *epoch* says that
counters start anew, and why. Both have `count` 0, so a reader that wants events only skips every
message whose property `count` is `0`.

Properties: `kind` (`heartbeat` or `epoch`), `count` (`0`), `position`; on `sequenced` also
`epoch`; on views also `format`, `plan`, `view`, `delivery_sequence` (the next one) and
`delivery_epoch`. An epoch has `reason`, and `epoch` where the instruments' sequences start anew;
on a view whose delivery count alone starts anew it has none.

Payload on `sequenced`: an Arrow IPC stream with one batch of `NEXT_SEQUENCES`: one row for each
instrument of the partition that had an event since the last heartbeat, with the sequence its next
event will have. A new owner of the partition tells all that it knows; at most `MAX_ROWS` rows go
into one heartbeat, the next ones tell the rest; an epoch frame has no row. On a view: no event in
the view's format (`Format.no_events`); for Arrow a stream with one batch of `NO_EVENTS` without
rows, for JSON no bytes.
"""

from typing import Final

import pyarrow as pa

HEARTBEAT: Final = "heartbeat"
EPOCH: Final = "epoch"
CONTROL_KINDS: Final = (HEARTBEAT, EPOCH)
"""Values of the property `kind` of messages that carry no event."""

TICK: Final = "tick"
"""Value of the property `kind` of a message on `ingest` that only lets time pass.

It carries no payload. The sequencer sends it to idle partitions and answers it with a heartbeat;
time thereby is an input like any other, with a position of its own.
"""

NEXT_SEQUENCES: Final = pa.schema(
    [
        pa.field("instrument", pa.utf8(), nullable=False),
        pa.field("sequence", pa.uint64(), nullable=False),
        pa.field("epoch", pa.uint32(), nullable=False),
    ]
)
"""Payload of a control frame on `sequenced`: what the next event of each instrument will carry."""

NO_EVENTS: Final = pa.schema([pa.field("instrument", pa.utf8())])
"""Schema of the batch without rows in a view's control frames, as all kinds have this column."""


def is_control(properties: dict[str, str]) -> bool:
    """Whether a message carries no event."""
    return properties.get("kind") in CONTROL_KINDS
