"""Reading topics for requests: in few threads of its own, and bounded in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pulsar

from control_plane.broker import Broker
from control_plane.errors import BrokerUnavailableError
from marketdata.connection import TopicNotReady

MAX_READERS = 2

T = TypeVar("T")


class TopicReads:
    """What the requests of one kind read; it may not starve the other calls to the broker.

    Args:
        what: is read, as errors name it: "The log".
        timeout_seconds: of one reading, from when it has a thread.
    """

    def __init__(self, broker: Broker, what: str, *, timeout_seconds: float) -> None:
        self._broker = broker
        self._what = what
        self._timeout_seconds = timeout_seconds
        self._threads = ThreadPoolExecutor(MAX_READERS, what)

    def close(self) -> None:
        """End the threads; those that read do so within the time of a request."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def read(self, blocking: Callable[[pulsar.Client, float], T]) -> T:
        """What `blocking` gives for the client and the seconds that it may take.

        Raises:
            BrokerUnavailableError: the topics are not there, or cannot be read in time.
        """
        client, seconds = self._broker.client, self._timeout_seconds
        loop = asyncio.get_running_loop()
        try:
            # Longer than the reading's own bound: waiting for a free thread counts as well.
            async with asyncio.timeout(2 * seconds + 1):
                return await loop.run_in_executor(self._threads, blocking, client, seconds)
        except TopicNotReady as error:
            raise BrokerUnavailableError(str(error)) from error
        except (TimeoutError, pulsar.PulsarException) as error:
            raise BrokerUnavailableError(
                f"{self._what} cannot be read ({type(error).__name__})."
            ) from error
