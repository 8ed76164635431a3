"""What the commands print: steps with durations and a progress bar. Standard library only.

Steps may end in another order than they began (Pulsar and PostgreSQL start side by side), so
every line names its step and nothing is overwritten except the progress bar on a terminal.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_BAR_WIDTH = 30
_MIB = 1024 * 1024


class Console:
    """Prints steps, safe to use from several threads."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._quiet = quiet
        self._lock = threading.Lock()
        self._terminal = self._stream.isatty()

    @property
    def terminal(self) -> bool:
        """Whether a person watches: progress is redrawn in place instead of logged."""
        return self._terminal

    def line(self, text: str) -> None:
        """Print one whole line."""
        if self._quiet:
            return
        with self._lock:
            print(text, file=self._stream, flush=True)

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Print when a step begins and how long it took, or that it failed."""
        step = Step()
        self.line(f"  … {name}")
        started = time.monotonic()
        try:
            yield step
        except BaseException:
            self.line(f"  ✗ {name} failed after {_seconds(time.monotonic() - started)}")
            raise
        outcome = f": {step.outcome}" if step.outcome else ""
        self.line(f"  ✓ {name}{outcome} ({_seconds(time.monotonic() - started)})")

    @contextmanager
    def progress(self, name: str, total_bytes: int) -> Iterator[Progress]:
        """A progress bar over `total_bytes`; call the yielded object's `add(count_bytes)`."""
        bar = Progress(self, name, total_bytes)
        try:
            yield bar
        finally:
            bar.close()

    def redraw(self, text: str, *, final: bool = False) -> None:
        """Replace the current line of a terminal; elsewhere print a line."""
        if self._quiet:
            return
        with self._lock:
            if self._terminal:
                end = "\n" if final else ""
                print(f"\r\x1b[K{text}", end=end, file=self._stream, flush=True)
            else:
                print(text, file=self._stream, flush=True)


class Step:
    """What a running step may report when it ends."""

    outcome: str = ""


class Progress:
    """One progress bar. Redrawn ten times a second on a terminal, every 10 % elsewhere."""

    def __init__(self, console: Console, name: str, total_bytes: int) -> None:
        self._console = console
        self._name = name
        self._total_bytes = max(1, total_bytes)
        self._done_bytes = 0
        self._started = time.monotonic()
        self._drawn_at = 0.0
        self._drawn_tenth = -1

    def add(self, count_bytes: int) -> None:
        """Count `count_bytes` more as done."""
        self._done_bytes += count_bytes
        now = time.monotonic()
        if self._console.terminal:
            due = now - self._drawn_at >= 0.1
        else:
            due = self._tenth() > self._drawn_tenth
        if due:
            self._drawn_at = now
            self._drawn_tenth = self._tenth()
            self._console.redraw(self._text(now))

    def close(self) -> None:
        """Leave the last state on the screen."""
        if self._console.terminal:
            self._console.redraw(self._text(time.monotonic()), final=True)

    def _tenth(self) -> int:
        return 10 * self._done_bytes // self._total_bytes

    def _text(self, now: float) -> str:
        share = min(1.0, self._done_bytes / self._total_bytes)
        filled = round(share * _BAR_WIDTH)
        bar = "█" * filled + "░" * (_BAR_WIDTH - filled)
        rate = self._done_bytes / _MIB / max(0.001, now - self._started)
        done, total = self._done_bytes // _MIB, self._total_bytes // _MIB
        return f"  {self._name} {bar} {share:4.0%} {done}/{total} MiB {rate:.0f} MiB/s"


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.1f} s" if duration_s < 60 else f"{duration_s / 60:.1f} min"
