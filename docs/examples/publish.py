"""Publish a few trades: build a batch by the schema of its kind, hand it to a `Publisher`.

python docs/examples/publish.py [TOPIC]
"""

import os
import sys
import time

import pyarrow as pa

from marketdata.publisher import Publisher
from marketdata.schemas import INGEST_SCHEMAS
from marketdata.topics import INGEST_EVENTS

SERVICE_URL = os.environ.get("DDS_PULSAR_SERVICE_URL", "pulsar://127.0.0.1:6650")
TOPIC = sys.argv[1] if len(sys.argv) > 1 else INGEST_EVENTS

now_ns = time.time_ns()
trades = [
    # instrument, source sequence, price in 1e-9, size in 1e-8
    ("AAPL", 1, 187_250_000_000, 100_00000000),
    ("MSFT", 1, 402_100_000_000, 50_00000000),
    ("AAPL", 2, 187_260_000_000, 25_00000000),
]
schema = INGEST_SCHEMAS["trade"]
batch = pa.RecordBatch.from_pylist(
    [
        {
            "instrument": instrument,
            "venue": "XNAS",
            "source": "example",
            "source_sequence": source_sequence,
            "ts_event": now_ns,
            "ts_publish": now_ns,  # the publisher writes its own time over it
            "price": price,
            "size": size,
            "side": "buy",
        }
        for instrument, source_sequence, price, size in trades
    ],
    schema=schema,
)

with Publisher(SERVICE_URL, name=f"example-{os.getpid()}", topic=TOPIC) as publisher:
    publisher.publish(batch)
    publisher.flush()  # returns when the broker has stored everything
    print(f"stored {publisher.statistics().events} events")
