"""Connections to the control plane that cost the machine under test as little as they can.

A request of httpx takes a millisecond of CPU; on two cores that would be measured, too.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from benchmarks.figures import BenchmarkFailed
from scripts.access import authorization

TIMEOUT_S = 60.0
TRIED_AGAIN = (429, 503)
IDLE_S = 2.0
"""The server ends a connection that is idle for longer; before that it is made anew."""

T = TypeVar("T")


class Answered(NamedTuple):
    """What was answered, when it was asked and when the answer was there (`perf_counter`)."""

    body: Any
    asked_s: float
    answered_s: float

    @property
    def took_ms(self) -> float:
        """Milliseconds from the question to the answer."""
        return (self.answered_s - self.asked_s) * 1e3


class Connections:
    """So many connections that are kept open, used from as many threads."""

    def __init__(self, url: str, size: int) -> None:
        self._address = urlsplit(url).netloc
        self._headers = {"Content-Type": "application/json", **authorization()}
        self._idle: SimpleQueue[tuple[http.client.HTTPConnection, float]] = SimpleQueue()
        self._threads = ThreadPoolExecutor(size)
        for _ in range(size):
            connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
            self._idle.put((connection, 0.0))

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answered:
        """The answer of `/v1` + path; a refusal for the moment is waited out and counts as time.

        Raises:
            BenchmarkFailed: the request is refused.
        """
        connection, used = self._idle.get()
        content = None if body is None else json.dumps(body)
        asked = time.perf_counter()
        if asked - used > IDLE_S:
            connection.close()
        try:
            while True:
                connection.request(method, f"/v1{path}", content, self._headers)
                answer = connection.getresponse()
                read = answer.read()
                answered = time.perf_counter()
                if answer.status not in TRIED_AGAIN or answered - asked > TIMEOUT_S:
                    break
                time.sleep(float(answer.headers.get("Retry-After", "1")))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise BenchmarkFailed(f"{method} {path}: {error!r}") from error
        finally:
            self._idle.put((connection, time.perf_counter()))
        if answer.status >= http.client.BAD_REQUEST:
            raise BenchmarkFailed(f"{method} {path} was answered {answer.status}: {read.decode()}")
        return Answered(json.loads(read) if read else None, asked, answered)

    def each(self, call: Callable[[T], Answered], items: Iterable[T]) -> Iterator[Answered]:
        """Call for every item, as many at a time as there are connections; answers in order."""
        return self._threads.map(call, items)

    def close(self) -> None:
        """End the threads and close the connections."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get()[0].close()


@contextmanager
def connected(url: str, size: int) -> Iterator[Connections]:
    """Connections that are closed at the end."""
    connections = Connections(url, size)
    try:
        yield connections
    finally:
        connections.close()
