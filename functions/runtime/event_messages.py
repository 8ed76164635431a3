"""Messages that hold one event each: what a frame's properties say, said of each event.

A loop over events, which only views that want it pay for: the client takes messages one by one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from functions.runtime.outputs import Message
from marketdata.arrays import values_of


def event_messages(
    written: Sequence[bytes], rows: pa.RecordBatch, properties: Mapping[str, str]
) -> list[Message]:
    """A message for each event.

    Args:
        written: the bytes of each event.
        rows: the events as they were sequenced.
        properties: those that a frame of all of them would have.

    Returns:
        Messages keyed by the instrument, each with the number and the time of its own event.
    """
    first = int(properties["delivery_sequence"])
    keys = rows.column("instrument").to_pylist()
    times = values_of(rows.column("ts_event"), np.int64).tolist()
    shared = {**properties, "count": "1", "granularity": "event"}
    return [
        Message(
            data,
            {
                **shared,
                "delivery_sequence": str(number),
                "ts_event_first": (time := str(time_ns)),
                "ts_event_last": time,
            },
            key,
            time_ns // 1_000_000,
        )
        for number, (data, key, time_ns) in enumerate(zip(written, keys, times, strict=True), first)
    ]
