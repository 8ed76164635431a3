"""The other end of a publisher process: starts it, kills it, and keeps the record of what it told.

What counts as accepted is what the process passed on of the broker's confirmations. A confirmation
that died with the process is none: the habit `resume` learns of it in its next life, and for the
habit `repeat` the event stays uncertain.
"""

import json
import subprocess
import sys
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa

from scripts.devstack.component import CHECKOUT, process_environment
from scripts.faults.publishing import Orders
from scripts.faults.wire import ATTEMPT, CONFIRMED, FLUSHED, Record, read_records
from scripts.verification.decoding import decode_arrow
from scripts.verification.recording import History

STOP_TIMEOUT_S: Final = 300.0


class PublisherFailed(Exception):
    """A publisher process ended by itself or does not end; its log says why."""


class PublisherProcess:
    """A publisher with as many lives as its kills leave it.

    Args:
        history: told of everything that is stored.
        orders: of its first life.
        partitions: of `ingest`.
        log: file for what the process prints.
    """

    def __init__(self, history: History, orders: Orders, *, partitions: int, log: Path) -> None:
        self.kills = 0
        self._history = history
        self._orders = orders
        self._partitions = partitions
        self._log = log
        self._recorded: dict[int, int] = {}
        self._attempts: dict[int, pa.RecordBatch] = {}
        self._confirmed: list[pa.RecordBatch] = []
        self._newest_call = -1
        self._flushed: tuple[int, dict[int, int]] = (-1, {})
        self._ending = Event()
        self._lives = Lock()
        self._start()

    def kill(self) -> None:
        """Kill -9 and start the next life; does nothing to one that is being stopped."""
        with self._lives:
            if self._ending.is_set():
                return
            self.kills += 1
            self._process.kill()
            self._bury()
            self._orders = self._next_life()
            self._start()

    def stop(self) -> None:
        """Have it flush and end.

        Raises:
            PublisherFailed: it does not, or ended with an error.
        """
        with self._lives:
            self._ending.set()
            with suppress(OSError):
                _pipe(self._process.stdin).write(b"stop\n")
                _pipe(self._process.stdin).flush()
            try:
                code = self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise PublisherFailed(
                    f"{self._orders.name} has not flushed after {STOP_TIMEOUT_S:.0f} s; see"
                    f" {self._log}"
                ) from None
            self._bury()
            if code != 0:
                raise PublisherFailed(f"{self._orders.name} ended with {code}; see {self._log}")

    def close(self) -> None:
        """End it at once, whatever it does."""
        self._ending.set()
        self._process.kill()
        self._bury()

    def _bury(self) -> None:
        """Take what an ended process has left: its last records, its pipes."""
        self._process.wait()
        self._reader.join()
        _pipe(self._process.stdout).close()
        # What could not be written to one that was killed is nobody's any more.
        with suppress(OSError):
            _pipe(self._process.stdin).close()

    def _start(self) -> None:
        with self._log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scripts.faults.publishing", self._orders.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=CHECKOUT,
                env=process_environment(),
            )
        self._reader = Thread(
            target=self._read, args=[self._process.stdout], name=self._orders.name, daemon=True
        )
        self._reader.start()

    def _read(self, stream: IO[bytes]) -> None:
        try:
            for record in read_records(stream):
                self._take(record)
        except Exception as error:  # noqa: BLE001 - whoever waits for the history learns of it
            self._history.failure = error

    def _take(self, record: Record) -> None:
        if record.kind == ATTEMPT:
            self._newest_call = record.number
            if self._orders.habit == "repeat":
                self._attempts[record.number] = decode_arrow(record.data)
        elif record.kind == CONFIRMED:
            batch = decode_arrow(record.data)
            if record.number > self._recorded.get(record.partition, -1):
                self._recorded[record.partition] = record.number
                self._history.accepted(self._orders.name, record.partition, batch)
            if self._orders.habit == "repeat":
                self._confirmed.append(batch)
        elif record.kind == FLUSHED:
            ids = {int(key): value for key, value in json.loads(record.data).items()}
            self._flushed = (record.number, ids)
            self._attempts.clear()
            self._confirmed.clear()

    def _next_life(self) -> Orders:
        """What the process is told to do after it was killed."""
        flushed, ids = self._flushed
        if self._orders.habit == "resume":
            return replace(self._orders, first_call=flushed + 1, sequence_ids=ids)
        if self._orders.habit == "steady":
            raise ValueError("a steady publisher keeps no record that a next life could use")
        first_call = self._record_uncertain()
        self._recorded.clear()
        return replace(
            self._orders, name=f"{self._orders.name}+", first_call=first_call, sequence_ids={}
        )

    def _record_uncertain(self) -> int:
        """Record what may be stored; the call to begin with so that all of it is made again."""
        stored = {key for batch in self._confirmed for key in _keys(batch)}
        first_call = self._newest_call + 1
        for number, batch in sorted(self._attempts.items()):
            mask = np.array([key not in stored for key in _keys(batch)])
            if not mask.any():
                continue
            first_call = min(first_call, number)
            partition = _partitions(batch, self._partitions)
            for chosen in np.unique(partition[mask]):
                rows = batch.filter(pa.array(mask & (partition == chosen)))
                self._history.accepted(self._orders.name, int(chosen), rows, certain=False)
        self._attempts.clear()
        self._confirmed.clear()
        return first_call


def _keys(batch: pa.RecordBatch) -> list[tuple[Any, Any]]:
    names = batch.column("instrument").to_pylist()
    return list(zip(names, batch.column("source_sequence").to_pylist(), strict=True))


def _partitions(batch: pa.RecordBatch, partitions: int) -> Any:
    names = batch.column("instrument").to_pylist()
    return np.array([zlib.crc32(name.encode()) % partitions for name in names])


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "both pipes are asked for"  # noqa: S101
    return stream
