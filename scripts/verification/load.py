"""Synthetic load: seeded ticks under names of the run's own, published at a given pace.

The events are those of `marketdata.sources.synthetic`; their source is `synthetic-<run>` and their
instruments are `<RUN>-SYN00000` and so on, so that runs on one stack cannot be mistaken for each
other and the sequences of every instrument begin at 1.
"""

import time
from collections.abc import Iterator
from threading import Event, Thread
from typing import Final

import pyarrow as pa

from marketdata.connection import open_client
from marketdata.publisher import Publisher
from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks
from scripts.verification.closing import close
from scripts.verification.recording import History

BATCHES_A_SECOND: Final = 50


class Load:
    """Publishes synthetic events from a thread of its own; what is stored goes to a history.

    Args:
        service_url: of Pulsar.
        history: told of every frame that the broker has stored.
        run: names source, instruments and publisher.
        part: added to the name of the source, when a run publishes in several parts.
        rate: events a second.
        seconds: how long; the number of events is `rate * seconds` however long it takes.
        instruments: how many.
    """

    def __init__(
        self,
        service_url: str,
        history: History,
        *,
        run: str,
        part: str = "",
        rate: int = 50_000,
        seconds: float = 10.0,
        instruments: int = 200,
        seed: int = 1,
    ) -> None:
        self.events = int(rate * seconds)
        self.published = 0
        self._rate = rate
        self._run = run
        self._source = f"{{}}-{run}{part}"
        self._history = history
        self._config = SyntheticConfig(
            events=self.events,
            seed=seed,
            instruments=instruments,
            rate=float(rate),
            batch_rows=max(1, rate // BATCHES_A_SECOND),
        )
        self._client, _ = open_client(service_url)
        self._publisher = Publisher(self._client, name=f"load-{run}")
        self._publisher.on_confirmed(
            lambda partition, _sequence_id, _message_id, batch: history.accepted(
                run, partition, batch
            )
        )
        self._stopping = Event()
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._work, name=f"load-{run}", daemon=True)
        self._thread.start()

    @property
    def confirmed(self) -> int:
        """Events that the broker has stored."""
        return self._history.accepted_events

    def wait(self, timeout_s: float) -> None:
        """Wait until every event is stored.

        Raises:
            TimeoutError: they are not; nothing is given up.
            Exception: what ended the publishing early.
        """
        self._thread.join(timeout_s)
        if self._failure is not None:
            raise self._failure
        if self._thread.is_alive():
            raise TimeoutError(
                f"{self.confirmed} of {self.events} events stored after {timeout_s} s"
            )

    def end(self, timeout_s: float) -> int:
        """Publish no more and wait until all that was published is stored; how many events.

        Raises:
            As `wait` does.
        """
        self._stopping.set()
        self.wait(timeout_s)
        return self.published

    def close(self) -> None:
        """Stop at once and release the connection."""
        self._stopping.set()
        self._thread.join(60)
        close(self._client)

    def _work(self) -> None:
        try:
            with self._publisher:
                for batch in self._paced():
                    self._publisher.publish(batch)
                    self.published += batch.num_rows
                # However long the broker is away: nothing is given up.
                self._publisher.flush()
        except BaseException as error:  # noqa: BLE001 - raised again by wait
            self._failure = error

    def _paced(self) -> Iterator[pa.RecordBatch]:
        start = time.monotonic()
        given = 0
        for batch in SyntheticTicks(self._config):
            self._stopping.wait(max(0.0, start + given / self._rate - time.monotonic()))
            if self._stopping.is_set():
                return
            given += batch.num_rows
            yield renamed(batch, source=self._source, instrument=f"{self._run}-{{}}")


def renamed(batch: pa.RecordBatch, **patterns: str) -> pa.RecordBatch:
    """The batch with symbols renamed: `source="{}-7"` makes `synthetic` `synthetic-7`."""
    columns = list(batch.columns)
    for name, pattern in patterns.items():
        at = batch.schema.get_field_index(name)
        values = [pattern.format(value) for value in columns[at].dictionary.to_pylist()]
        columns[at] = pa.DictionaryArray.from_arrays(columns[at].indices, pa.array(values))
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)
