"""Room for inputs in flight: the runtime's thread waits here while too much is under way."""

import threading
from typing import Final

MAX_FRAMES: Final = 128
MAX_BYTES: Final = 48 * 1024 * 1024


class Room:
    """Counts inputs and their bytes. Thread safe.

    Args:
        max_frames, max_bytes: most of both; one input always fits an empty room.
    """

    def __init__(self, *, max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES) -> None:
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._frames = 0
        self._bytes = 0
        self._changed = threading.Condition()

    def take(self, size_bytes: int) -> None:
        """Wait until an input of this size fits, and count it."""
        with self._changed:
            self._changed.wait_for(lambda: self._fits(size_bytes))
            self._frames += 1
            self._bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """An input of this size is no longer in flight."""
        with self._changed:
            self._frames -= 1
            self._bytes -= size_bytes
            self._changed.notify()

    def _fits(self, size_bytes: int) -> bool:
        if not self._frames:
            return True
        return self._frames < self._max_frames and self._bytes + size_bytes <= self._max_bytes
