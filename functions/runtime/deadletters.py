"""Dead letters: what cannot be processed is kept with its reason, position and original bytes."""

import time

from functions.runtime.inputs import Input
from marketdata.positions import unpack

MAX_REASON_CHARS = 1_000


def dead_letter_properties(
    item: Input, *, function: str, source_topic: str, code: str, reason: str
) -> dict[str, str]:
    """The properties of a dead letter; its payload is the input's payload, unchanged.

    `reason_code` is stable for machines, `reason` a sentence for people; `source_topic` and
    `source_position` (ledger:entry:batch index) say where the input stands. The input's own
    properties follow with the prefix `original_`.
    """
    position = unpack(item.position)
    return {
        **{f"original_{name}": value for name, value in item.properties.items()},
        "position": str(item.position),
        "function": function,
        "source_topic": source_topic,
        "source_position": f"{position.ledger_id}:{position.entry_id}:{position.batch_index}",
        "reason_code": code,
        "reason": reason[:MAX_REASON_CHARS],
        "failed_at_ns": str(time.time_ns()),
    }
