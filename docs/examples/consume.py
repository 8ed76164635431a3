"""Read events with the library: order, gaps and repeats are checked, gaps filled where possible.

    python docs/examples/consume.py TOPIC [SUBSCRIPTION]

The control plane names topic and subscription when a subscription is made. The example stops when
nothing came for five seconds.
"""

import os
import sys

from marketdata.consumer import Consumer, GapFill

SERVICE_URL = os.environ.get("DDS_PULSAR_SERVICE_URL", "pulsar://127.0.0.1:6650")
TOPIC = sys.argv[1]
SUBSCRIPTION = sys.argv[2] if len(sys.argv) > 2 else "example"

with Consumer(SERVICE_URL, TOPIC, SUBSCRIPTION, on_gap=print, fill=GapFill()) as consumer:
    for event in consumer.events(timeout_s=5):
        print(event["kind"], event["instrument"], event.get("price"))
    seen = consumer.statistics()
    print(f"read {seen.events} events, {seen.gaps} gaps, {seen.duplicates} duplicates")
