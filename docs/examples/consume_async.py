"""Read frames with asyncio; a frame's `batch` is an Arrow record batch.

python docs/examples/consume_async.py TOPIC [SUBSCRIPTION]
"""

import asyncio
import os
import sys

from marketdata.aio import AsyncConsumer

SERVICE_URL = os.environ.get("DDS_PULSAR_SERVICE_URL", "pulsar://127.0.0.1:6650")
TOPIC = sys.argv[1]
SUBSCRIPTION = sys.argv[2] if len(sys.argv) > 2 else "example-async"


async def main() -> None:
    """Count what is there until nothing came for five seconds."""
    events = 0
    async with await AsyncConsumer.open(
        SERVICE_URL, TOPIC, SUBSCRIPTION, auto_ack=False
    ) as consumer:
        async for frame in consumer.frames(timeout_s=5):
            events += frame.batch.num_rows
            await consumer.ack(frame)  # done with it: it will not come again
    print(f"read {events} events")


asyncio.run(main())
