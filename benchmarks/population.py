"""Many subscriptions of many consumers, made over HTTP.

Subscription n is of consumer n modulo their number and has view n modulo theirs: many consumers
share few views, as they do where their interests are products.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.connections import Answered, Connections
from benchmarks.figures import BenchmarkFailed
from benchmarks.routing import filter_texts

INSTRUMENTS = 10_000
ACTIVE_TIMEOUT_S = 3_600.0
PAGE = 1_000


def add_population_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the benchmarks that have many subscriptions."""
    parser.add_argument(
        "--consumers", type=int, default=10_000, help="that own them (default 10,000)"
    )
    parser.add_argument(
        "--views", type=int, default=1_000, help="distinct ones among them (default 1,000)"
    )
    parser.add_argument("--connections", type=int, default=8, help="(default 8)")


class Population:
    """Consumers, and requests for subscriptions of theirs.

    Args:
        views: how many distinct filters; each is of twenty instruments of 10,000 and of a term on
            the price or the venue.
    """

    def __init__(self, api: Connections, *, consumers: int, views: int) -> None:
        self._api = api
        self._prefix = f"bench-{time.time_ns():x}"
        self._consumers = consumers
        self._filters = filter_texts(views, INSTRUMENTS)
        self.made: list[str] = []
        """The ids of what was made."""

    def register(self) -> list[Answered]:
        """Register the consumers; gives the answers."""
        return list(
            self._api.each(
                lambda number: self._api.ask(
                    "POST", "/consumers", {"name": self._owner(number), "entitlements": {}}
                ),
                range(self._consumers),
            )
        )

    def subscribe(self, numbers: Sequence[int]) -> list[Answered]:
        """Make these subscriptions; gives the answers."""
        return list(self._api.each(self._subscribe, numbers))

    def subscribe_together(self, numbers: Sequence[int], size: int) -> list[Answered]:
        """Make these subscriptions, so many by a request; gives the answers."""
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return list(self._api.each(self._batch, parts))

    def owner_of(self, number: int) -> str:
        """The name of the consumer who owns a subscription."""
        return self._owner(number % self._consumers)

    def await_active(self) -> float:
        """Wait until nothing is pending; gives how long that took, in seconds."""
        started = time.perf_counter()
        while self._api.ask("GET", "/subscriptions?state=pending&limit=1").body["items"]:
            if time.perf_counter() - started > ACTIVE_TIMEOUT_S:
                raise BenchmarkFailed(
                    f"subscriptions are pending after {ACTIVE_TIMEOUT_S:.0f} s; look at the log of"
                    " the control plane"
                )
            time.sleep(0.1)
        return time.perf_counter() - started

    def remove(self) -> None:
        """Close the subscriptions that were made; their consumers stay, without any."""
        for _ in self._api.each(self._close, self.made):
            pass

    def _close(self, key: str) -> Answered:
        return self._api.ask("DELETE", f"/subscriptions/{key}")

    def _subscribe(self, number: int) -> Answered:
        answered = self._api.ask("POST", "/subscriptions", self._request(number))
        self.made.append(answered.body["id"])
        return answered

    def _batch(self, numbers: Sequence[int]) -> Answered:
        body = {"subscriptions": list(map(self._request, numbers))}
        answered = self._api.ask("POST", "/subscriptions:batch-create", body)
        self.made.extend(each["id"] for each in answered.body["items"])
        return answered

    def _request(self, number: int) -> dict[str, Any]:
        return {
            "consumer": self.owner_of(number),
            "name": f"subscription-{number}",
            "filter": self._filters[number % len(self._filters)],
        }

    def _owner(self, consumer: int) -> str:
        return f"{self._prefix}-{consumer}"


def pages(api: Connections, most: int) -> Iterator[Answered]:
    """Up to so many pages of the list of subscriptions, from its beginning on."""
    cursor = ""
    for _ in range(most):
        answered = api.ask("GET", f"/subscriptions?limit=100{cursor}")
        yield answered
        if answered.body["next_cursor"] is None:
            return
        cursor = f"&cursor={answered.body['next_cursor']}"
