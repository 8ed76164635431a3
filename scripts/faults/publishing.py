"""The publisher process: publishes synthetic events until told to stop, and can be killed anytime.

    python -m scripts.faults.publishing '<JSON of Orders>'

It tells its parent on standard output, in records of `wire`, what it is about to publish, what it
was told is stored, and when everything up to a call is. It ends when its standard input says
`stop` (in good order) or ends (at once: its parent is gone).

Three habits:

- `steady`: sends by size and by time, as most publishers do;
- `resume`: cuts frames by size and flush only, and when it is started again it makes the calls
  behind its last flush again under the same name (`Publisher.resume_from`);
- `repeat`: when it is started again, under another name, it publishes once more, with a new
  `ts_publish`, what it had not been told is stored; so such events may come twice.
"""

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import IO, Final, Literal

import pulsar
import pyarrow as pa

from marketdata.connection import TopicNotReady
from marketdata.publisher import Publisher
from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks
from scripts.faults.wire import ATTEMPT, CONFIRMED, FLUSHED, Record, write_record
from scripts.verification.load import renamed
from scripts.verification.recorders import open_client

CALLS_A_SECOND: Final = 25
CALLS_A_FLUSH: Final = 10
OPEN_TIMEOUT_S: Final = 180.0

Habit = Literal["steady", "resume", "repeat"]


@dataclass(frozen=True, slots=True)
class Orders:
    """What a publisher process is to do.

    Attributes:
        name: of the publisher.
        source: of its events.
        instruments: names are `<prefix>SYN00000` and so on.
        started_ns: when its first call was due (nanoseconds since the epoch), in its first life.
        first_call: number of the call to begin with.
        sequence_ids: partition -> sequence id to resume from; habit `resume` only.
    """

    service_url: str
    name: str
    habit: Habit
    source: str
    prefix: str
    instruments: int
    rate: int
    seed: int
    started_ns: int
    first_call: int = 0
    sequence_ids: dict[int, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """As it travels to the process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Orders":
        """As the process was given it."""
        document = json.loads(text)
        ids = {int(key): value for key, value in document.pop("sequence_ids").items()}
        return cls(**document, sequence_ids=ids)


def calls_of(orders: Orders) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Number and batch of every call from the first on: the same for the same orders."""
    config = SyntheticConfig(
        events=None,
        seed=orders.seed,
        instruments=orders.instruments,
        rate=float(orders.rate),
        batch_rows=max(1, orders.rate // CALLS_A_SECOND),
    )
    numbered = enumerate(SyntheticTicks(config))
    for number, batch in itertools.islice(numbered, orders.first_call, None):
        due_ns = orders.started_ns + number * 1_000_000_000 // CALLS_A_SECOND
        # A call that is repeated with the same stamp is the same call; one that is made anew is
        # stamped anew.
        stamp_ns = time.time_ns() if orders.habit == "repeat" else due_ns
        named = renamed(batch, source=orders.source, instrument=f"{orders.prefix}{{}}")
        yield number, stamped(named, stamp_ns)


def stamped(batch: pa.RecordBatch, ts_publish_ns: int) -> pa.RecordBatch:
    """The batch with this `ts_publish` in every row."""
    at = batch.schema.get_field_index("ts_publish")
    kind = batch.schema.field(at).type
    stamps = pa.repeat(pa.scalar(ts_publish_ns, pa.int64()).cast(kind), batch.num_rows)
    return batch.set_column(at, batch.schema.field(at), stamps)


def encoded(batch: pa.RecordBatch) -> bytes:
    """The batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    data: bytes = sink.getvalue().to_pybytes()
    return data


class _Told:
    """The way to the parent; records of several threads do not mix."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, kind: bytes, partition: int, number: int, data: bytes = b"") -> None:
        with self._lock:
            write_record(self._stream, Record(kind, partition, number, data))


def run(orders: Orders, tell: _Told, stopping: threading.Event) -> None:
    """Publish until `stopping`, then flush."""
    client: pulsar.Client = open_client(orders.service_url)
    steady = orders.habit == "steady"
    publisher = _opened(client, orders)
    publisher.on_confirmed(
        lambda partition, number, _id, batch: tell(CONFIRMED, partition, number, encoded(batch))
    )
    if orders.habit == "resume":
        publisher.resume_from(orders.sequence_ids)
    for number, batch in calls_of(orders):
        due_ns = orders.started_ns + number * 1_000_000_000 // CALLS_A_SECOND
        stopping.wait(max(0.0, (due_ns - time.time_ns()) / 1e9))
        tell(ATTEMPT, 0, number, encoded(batch))
        publisher.publish(batch)
        if not steady and (number + 1) % CALLS_A_FLUSH == 0:
            publisher.flush()
            ids = json.dumps(publisher.last_sequence_ids()).encode()
            tell(FLUSHED, 0, number, ids)
        if stopping.is_set() and (steady or (number + 1) % CALLS_A_FLUSH == 0):
            break
    # However long the broker is away: nothing is given up.
    publisher.close(timeout_s=None)
    client.close()


def _opened(client: pulsar.Client, orders: Orders) -> Publisher:
    """A publisher, as soon as the broker is there."""
    deadline = time.monotonic() + OPEN_TIMEOUT_S
    while True:
        try:
            return Publisher(
                client,
                name=orders.name,
                max_delay_ms=5.0 if orders.habit == "steady" else None,
                stamp_ts_publish=False,
                open_timeout_s=OPEN_TIMEOUT_S,
            )
        except (pulsar.PulsarException, TopicNotReady):
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def _watch_parent(stopping: threading.Event) -> None:
    for line in sys.stdin:
        if line.strip() == "stop":
            stopping.set()
    if not stopping.is_set():
        os._exit(1)


def main() -> None:
    """The process."""
    with os.fdopen(os.dup(1), "wb") as stream:
        # Whatever else writes to standard output must not mix with the records.
        os.dup2(2, 1)
        stopping = threading.Event()
        threading.Thread(target=_watch_parent, args=[stopping], daemon=True).start()
        run(Orders.from_json(sys.argv[1]), _Told(stream), stopping)


if __name__ == "__main__":
    main()
