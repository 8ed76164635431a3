"""Whether events flow, seen where they arrive: per partition, the newest event by its publishing.

Recovery from a fault means: in every partition an event that was published after the fault had
been healed has arrived. An outage is a time in which no event arrived at all.
"""

import time
from collections.abc import Callable
from threading import Condition
from typing import Final

import numpy as np
import pyarrow as pa

RECOVERY_TIMEOUT_S: Final = 300.0


class NotRecovered(Exception):
    """Events do not flow again in time."""


class Flow:
    """Told of every batch that arrives.

    Args:
        partitions: in each of which events are due all the time.
    """

    def __init__(self, partitions: int) -> None:
        self.longest_outage_s = 0.0
        self._newest = np.zeros(partitions, dtype=np.int64)
        self._arrived_s: float | None = None
        self._changed = Condition()

    def saw(self, partition: int, batch: pa.RecordBatch) -> None:
        """A batch with a column `ts_publish` arrived."""
        newest = int(batch.column("ts_publish").view(pa.int64()).to_numpy().max())
        now_s = time.monotonic()
        with self._changed:
            if self._arrived_s is not None:
                self.longest_outage_s = max(self.longest_outage_s, now_s - self._arrived_s)
            self._arrived_s = now_s
            self._newest[partition] = max(self._newest[partition], newest)
            self._changed.notify_all()

    def rest(self) -> None:
        """Nothing is due until the next event: what follows is no outage."""
        with self._changed:
            self._arrived_s = None

    def await_after(self, since_ns: int, aborted: Callable[[], bool]) -> float:
        """Wait until every partition shows an event published after `since_ns`.

        Returns:
            Seconds from `since_ns` to now.

        Raises:
            NotRecovered: with the partitions that stand still.
        """
        deadline = time.monotonic() + RECOVERY_TIMEOUT_S
        with self._changed:
            while not (self._newest > since_ns).all() and not aborted():
                if time.monotonic() > deadline:
                    still = np.flatnonzero(self._newest <= since_ns).tolist()
                    raise NotRecovered(
                        f"no new event in partitions {still} after {RECOVERY_TIMEOUT_S:.0f} s"
                    )
                self._changed.wait(0.5)
        return (time.time_ns() - since_ns) / 1e9
