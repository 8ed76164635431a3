"""Bytes and messages that pass through the broker at each stage of an event's way.

They are the broker's own counters (`bytesInCounter`, `bytesOutCounter`), which count entries as
they come over the wire and as they are stored: compressed, with their message metadata. They are
exact, whereas the counters of a process mix its topics, the journal and the metadata store.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from benchmarks.figures import BenchmarkFailed
from scripts.devstack import http

STAGES: Final = ("ingest", "log", "delivery")


class Traffic(NamedTuple):
    """What went into the topics of a stage, and out of them to their readers."""

    bytes_in: int
    bytes_out: int
    messages_in: int


class TrafficMeter:
    """Counts from `start` to `stop`.

    Args:
        admin_url: of the broker.
        topics: stage -> full names of partitioned topics.
    """

    def __init__(self, admin_url: str, topics: Mapping[str, Sequence[str]]) -> None:
        self._admin_url = admin_url
        self._topics = topics
        self._started: dict[str, Traffic] = {}

    def start(self) -> None:
        """Begin to count."""
        self._started = self._read()

    def stop(self) -> dict[str, Traffic]:
        """Stage -> what has passed since `start`."""
        now = self._read()
        return {
            stage: Traffic(*(b - a for a, b in zip(self._started[stage], now[stage], strict=True)))
            for stage in now
        }

    def _read(self) -> dict[str, Traffic]:
        return {
            stage: Traffic(*map(sum, zip(*map(self._of_topic, topics), strict=True)))
            for stage, topics in self._topics.items()
        }

    def _of_topic(self, topic: str) -> Traffic:
        statistics = topic_statistics(self._admin_url, topic, partitioned=True)
        return Traffic(
            int(statistics["bytesInCounter"]),
            int(statistics["bytesOutCounter"]),
            int(statistics["msgInCounter"]),
        )


def topic_statistics(admin_url: str, topic: str, *, partitioned: bool) -> dict[str, Any]:
    """The broker's statistics of a topic, summed over its partitions."""
    scheme, _, rest = topic.partition("://")
    tenant, namespace, name = rest.split("/", 2)
    what = "partitioned-stats?perPartition=false" if partitioned else "stats"
    url = f"{admin_url}/admin/v2/{scheme}/{tenant}/{namespace}/{quote(name, safe='')}/{what}"
    body = http.get(url, timeout_s=30.0)
    if body is None:
        raise BenchmarkFailed(f"the broker gives no statistics of {topic} at {url}")
    statistics: dict[str, Any] = json.loads(body)
    return statistics
