"""The worker that publishes: batches made beforehand, as fast as taken or at a stated rate."""

from __future__ import annotations

import gc
import time
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.pool import Pool
from benchmarks.workers import Answer, serve
from marketdata.arrays import array_of
from marketdata.publisher import Publisher
from marketdata.schemas import TIMESTAMP

FLUSH_TIMEOUT_S = 120.0


class Publishing:
    """The commands `prepare` and `run`; a pool may be run once or more."""

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._views = 1

    def prepare(self, **config: Any) -> Answer:
        """Make the batches; the arguments are those of `Pool`."""
        self._views = config["views"]
        self._pool = Pool(**config)
        # The collector would walk through the pool again and again, which no publisher has.
        gc.freeze()
        return {}

    def run(
        self,
        *,
        service_url: str,
        name: str,
        seconds: float,
        max_events: int,
        rate: float | None,
        publisher: dict[str, Any],
    ) -> Answer:
        """Publish for `seconds` or `max_events`, and wait until all of it is stored.

        Args:
            rate: events a second, open loop: a call that is late is made up for by those behind
                it, and `ts_publish` is the time at which it was due, so waiting counts as latency.
                None for as fast as the publisher takes them, stamped by the publisher.
            publisher: further arguments of `marketdata.publisher.Publisher`.
        """
        assert self._pool is not None, "prepare comes before run"
        of_view = np.zeros(self._views, dtype=np.int64)
        events = 0
        latest_s = 0.0
        stamped = rate is None
        with Publisher(service_url, name=name, stamp_ts_publish=stamped, **publisher) as client:
            started_ns = time.time_ns()
            started = time.monotonic()
            for batch, counts in self._pool:
                if rate is not None:
                    due_s = events / rate
                    ahead_s = started + due_s - time.monotonic()
                    if ahead_s > 0:
                        time.sleep(ahead_s)
                    latest_s = max(latest_s, -ahead_s)
                    batch = _due_at(batch, started_ns + int(due_s * 1e9))  # noqa: PLW2901
                client.publish(batch)
                events += batch.num_rows
                of_view += counts
                if events >= max_events or time.monotonic() >= started + seconds:
                    break
            published_s = time.monotonic() - started
            client.flush(FLUSH_TIMEOUT_S)
            done = client.statistics()
        return {
            "started_ns": started_ns,
            "published_s": published_s,
            "latest_s": latest_s,
            "events": events,
            "of_view": of_view.tolist(),
            "stored_events": done.events,
            "frames": done.frames,
            "frame_bytes": done.frame_bytes,
            "confirm_p50_ms": done.confirm_latency_p50_ms,
        }


def _due_at(batch: pa.RecordBatch, due_ns: int) -> pa.RecordBatch:
    columns = batch.columns
    stamps = np.full(batch.num_rows, due_ns, dtype=np.int64)
    columns[batch.schema.get_field_index("ts_publish")] = array_of(stamps, TIMESTAMP)
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


if __name__ == "__main__":
    work = Publishing()
    serve({"prepare": work.prepare, "run": work.run})
