"""Counting what a source gives: for summaries, progress and checks of completeness."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import numpy as np
import pyarrow as pa

from marketdata.arrays import codes_of
from marketdata.frames import frame_kind
from marketdata.sources.pacing import event_times

_TERMINAL_INTERVAL_S: Final = 0.25
_LOG_INTERVAL_S: Final = 5.0


@dataclass(slots=True)
class Tally:
    """Events counted so far.

    Attributes:
        events_of_kind: kind -> rows.
        instruments: names that occurred.
        first_ns, last_ns: lowest and highest `ts_event`; None before the first event.
        stored: events that the broker has confirmed; None without a broker.
        seconds: from `start` (or creation) to the latest `add`, or to `finish`.
    """

    events_of_kind: dict[str, int] = field(default_factory=dict)
    instruments: set[str] = field(default_factory=set)
    first_ns: int | None = None
    last_ns: int | None = None
    stored: int | None = None
    seconds: float = 0.0
    _started_s: float = field(default_factory=time.monotonic)

    @property
    def events(self) -> int:
        """Rows of all kinds."""
        return sum(self.events_of_kind.values())

    @property
    def events_per_second(self) -> float:
        """Rows a second over `seconds`."""
        return self.events / self.seconds if self.seconds else 0.0

    def start(self) -> None:
        """Take the time from here on."""
        self._started_s = time.monotonic()

    def finish(self, stored: int) -> None:
        """Everything is stored: `stored` events, at this time."""
        self.stored = stored
        self.seconds = time.monotonic() - self._started_s

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch."""
        self.seconds = time.monotonic() - self._started_s
        if batch.num_rows == 0:
            return
        kind = frame_kind(batch)
        self.events_of_kind[kind] = self.events_of_kind.get(kind, 0) + batch.num_rows
        column = batch.column("instrument")
        used = np.flatnonzero(np.bincount(codes_of(column)))
        self.instruments.update(column.dictionary.take(pa.array(used)).to_pylist())
        times = event_times(batch)
        low, high = int(times.min()), int(times.max())
        self.first_ns = low if self.first_ns is None else min(self.first_ns, low)
        self.last_ns = high if self.last_ns is None else max(self.last_ns, high)

    def figures(self) -> dict[str, Any]:
        """The counts as plain values, for JSON."""
        return {
            "events": self.events,
            "stored": self.stored,
            "events_of_kind": self.events_of_kind,
            "instruments": len(self.instruments),
            "ts_event_first_ns": self.first_ns,
            "ts_event_last_ns": self.last_ns,
            "seconds": round(self.seconds, 3),
            "events_per_second": round(self.events_per_second),
        }

    def text(self) -> str:
        """The counts for a person, in a few lines."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.events_of_kind.items())
        lines = [f"read       {self.events:,} events ({kinds or 'none'})"]
        if self.stored is not None:
            lines.append(f"stored     {self.stored:,} events, confirmed by the broker")
        lines.append(f"of         {len(self.instruments):,} instruments")
        if self.first_ns is not None and self.last_ns is not None:
            lines.append(f"event time {_utc(self.first_ns)} to {_utc(self.last_ns)}")
        lines.append(f"took       {self.seconds:.2f} s, {self.events_per_second:,.0f} events/s")
        return "\n".join(lines)


class Progress:
    """One live line on a terminal, a line every few seconds elsewhere."""

    def __init__(self, tally: Tally, out: TextIO) -> None:
        self._tally = tally
        self._out = out
        self._live = out.isatty()
        self._shown_s = time.monotonic()
        self._last_events = 0

    def show(self) -> None:
        """Show the counts when it is time to."""
        now = time.monotonic()
        interval = _TERMINAL_INTERVAL_S if self._live else _LOG_INTERVAL_S
        if now - self._shown_s < interval:
            return
        rate = (self._tally.events - self._last_events) / (now - self._shown_s)
        self._shown_s, self._last_events = now, self._tally.events
        at = _utc(self._tally.last_ns) if self._tally.last_ns is not None else ""
        line = f"{self._tally.events:>14,} events  {rate:>11,.0f} events/s  {at}"
        self._out.write(f"\r{line}\x1b[K" if self._live else line + "\n")
        self._out.flush()

    def note(self, text: str) -> None:
        """A line of its own."""
        self._out.write(f"\r{text}\x1b[K\n" if self._live else text + "\n")
        self._out.flush()

    def finish(self) -> None:
        """Leave the terminal clean."""
        if self._live:
            self._out.write("\r\x1b[K")
            self._out.flush()


def _utc(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{rest_ns // 1_000_000:03d}Z"
