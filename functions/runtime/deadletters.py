"""Dead letters: what cannot be processed is kept with its reason, position and original bytes."""

import re
import time

from functions.runtime.inputs import Input
from marketdata.errors import printable
from marketdata.frames import MAX_MESSAGE_BYTES
from marketdata.positions import unpack

MAX_REASON_CHARS = 1_000
MAX_ORIGINAL_CHARS = 4_096
"""Of the input's own properties, names and values together."""

_ROOM_FOR_PROPERTIES = 16 * 1024
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


def dead_letter(
    item: Input, *, function: str, source_topic: str, code: str, reason: str
) -> tuple[bytes, dict[str, str]]:
    """Payload and properties of a dead letter.

    The payload is the input's, unchanged; only where that does not fit a message (the input came
    compressed or in chunks) it is cut, and `truncated_from_bytes` says so. `reason_code` is stable
    for machines, `reason` a sentence for people; `source_topic` and `source_position`
    (ledger:entry:batch index) say where the input stands. The input's own properties follow with
    the prefix `original_`, as far as they fit 4,096 characters.
    """
    position = unpack(item.position)
    properties = {
        **_original(item.properties),
        "position": str(item.position),
        "function": function,
        "source_topic": source_topic,
        "source_position": f"{position.ledger_id}:{position.entry_id}:{position.batch_index}",
        "reason_code": code,
        "reason": printable(reason[:MAX_REASON_CHARS]),
        "failed_at_ns": str(time.time_ns()),
    }
    most = MAX_MESSAGE_BYTES - _ROOM_FOR_PROPERTIES * 2
    if len(item.data) > most:
        properties["truncated_from_bytes"] = str(len(item.data))
    return item.data[:most], properties


def trace_properties(item: Input) -> dict[str, str]:
    """The W3C trace context that an input carries, for what is made of it; empty when invalid."""
    found = item.properties.get("traceparent", "")
    return {"traceparent": found} if _TRACEPARENT.match(found) else {}


def _original(properties: dict[str, str]) -> dict[str, str]:
    kept: dict[str, str] = {}
    room = MAX_ORIGINAL_CHARS
    for name, value in properties.items():
        room -= len(name) + len(value)
        if room < 0:
            break
        kept[printable(f"original_{name}")] = printable(value)
    return kept
