"""Read Arrow frames with nothing but `pulsar-client` and `pyarrow`.

    python docs/examples/consume_plain_pulsar.py TOPIC [SUBSCRIPTION]

A message is one Arrow IPC stream with one record batch; its properties say what is inside. Prices
are integers of 1e-9, sizes of 1e-8. Read Failover (or Exclusive): that keeps the order. Heartbeats
and other messages without events have `count` 0; docs/consuming.md says what they are good for.
"""

import os
import sys

import pulsar
import pyarrow as pa

SERVICE_URL = os.environ.get("DDS_PULSAR_SERVICE_URL", "pulsar://127.0.0.1:6650")
TOPIC = sys.argv[1]
SUBSCRIPTION = sys.argv[2] if len(sys.argv) > 2 else "example-plain"

client = pulsar.Client(SERVICE_URL, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
consumer = client.subscribe(
    TOPIC,
    SUBSCRIPTION,
    consumer_type=pulsar.ConsumerType.Failover,
    initial_position=pulsar.InitialPosition.Earliest,
)
events = 0
while True:
    try:
        message = consumer.receive(timeout_millis=5000)
    except pulsar.Timeout:
        break
    if message.properties()["count"] == "0":
        consumer.acknowledge(message)
        continue
    batch = pa.ipc.open_stream(message.data()).read_next_batch()
    print(message.properties()["kind"], batch.column("instrument").to_pylist())
    events += batch.num_rows
    consumer.acknowledge(message)
print(f"read {events} events")
client.close()
