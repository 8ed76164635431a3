"""Findings on `control/ordering` reach PostgreSQL and the API exactly once, whoever dies.

The findings are published here, as the sequencer would; broker, database and control planes are
real.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pulsar
import pytest
from events import trades
from local_runtime import eventually
from ordering_events import closed, event, opened

from marketdata.ordering import (
    OrderingEvent,
    decode_resend_request,
    encode_ordering_events,
)
from marketdata.publisher import Publisher
from marketdata.topics import ORDERING, RESEND, partition_topic
from scripts.access import authenticate

pytestmark = pytest.mark.integration

PARTITION = 1
FINDINGS_A_MESSAGE = 50


class Ordering:
    """The topic of findings and the API, for a source that only this test has."""

    def __init__(self, stack: Any) -> None:
        self.stack = stack
        self.source = f"test-{uuid.uuid4().hex[:12]}"
        self.http = httpx.Client(base_url=stack.control_plane_url, timeout=60, auth=authenticate)
        self.client = pulsar.Client(
            stack.service_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error)
        )
        # Batched, so that a position may lie within an entry. The deployed sequencer has the topic
        # for itself as soon as it had something to tell, in whatever test that was.
        self.producer = self.client.create_producer(
            partition_topic(ORDERING, PARTITION),
            access_mode=pulsar.ProducerAccessMode.ExclusiveWithFencing,
            batching_enabled=True,
            batching_max_publish_delay_ms=20,
        )
        self._numbers = iter(range(1, 1 << 30))

    def make(self, maker: Callable[..., OrderingEvent], *args: Any, **members: Any) -> Any:
        """A finding with an id that nobody else uses."""
        # Of now: a control plane that starts deletes what is older than the retention.
        given = {"source": self.source, "detected_at_ns": time.time_ns(), **members}
        made = maker(0, *args, **given)
        return _with_id(made, f"{PARTITION}:{self.source}:{next(self._numbers)}")

    def publish(self, *events: OrderingEvent) -> None:
        self.producer.send_async(encode_ordering_events(list(events)), None)

    def publish_reversals(self, messages: int) -> None:
        for _ in range(messages):
            self.publish(*(self.make(event) for _ in range(FINDINGS_A_MESSAGE)))
        self.producer.flush()

    def get(self, path: str) -> Any:
        answer = self.http.get(path)
        answer.raise_for_status()
        return answer.json()

    def items(self, what: str, query: str = "") -> list[Any]:
        page = self.get(f"/v1/ordering/{what}?source={self.source}&limit=1000{query}")
        return list(page["items"])

    def rows(self, statement: str, parameters: dict[str, str]) -> list[Any]:
        with psycopg.connect(self.stack.database_url) as connection:
            return connection.execute(statement.encode(), parameters).fetchall()

    def counted(self) -> int:
        """Findings of this source that are stored, and that were counted: always as many."""
        stored, counts = self.rows(
            "SELECT (SELECT count(*) FROM ordering_findings WHERE source = %(s)s),"
            " (SELECT coalesce(sum(findings), 0) FROM ordering_counts WHERE source = %(s)s)",
            {"s": self.source},
        )[0]
        assert stored == counts
        return int(counts)

    def close(self) -> None:
        self.client.close()
        self.http.close()


def _with_id(made: OrderingEvent, key: str) -> OrderingEvent:
    members = {name: getattr(made, name) for name in OrderingEvent.__struct_fields__}
    return OrderingEvent(**(members | {"id": key}))


@pytest.fixture
def ordering(stack: Any) -> Iterator[Ordering]:
    made = Ordering(stack)
    yield made
    made.close()


def test_a_gap_is_seen_open_then_filled_in_part_then_closed(ordering: Ordering) -> None:
    gap = ordering.make(opened, instrument="ESZ6")
    ordering.publish(gap)
    eventually(lambda: len(ordering.items("gaps", "&state=open")) == 1)
    part = ordering.make(closed, gap.id, first=10, last=12, remaining=7)
    ordering.publish(part)
    eventually(lambda: ordering.get(f"/v1/ordering/gaps/{gap.id}")["remaining"] == 7)
    open_series = f'dds_ordering_open_gaps{{source="{ordering.source}"}} 1.0'
    assert open_series in ordering.http.get("/metrics").text.splitlines()
    ordering.publish(ordering.make(closed, gap.id, first=13, last=19))
    eventually(lambda: len(ordering.items("gaps", "&state=closed")) == 1)
    assert ordering.items("gaps", "&state=open") == []
    assert [item["type"] for item in ordering.items("findings")].count("gap_closed") == 2


def test_what_is_published_again_is_stored_once(ordering: Ordering) -> None:
    gap = ordering.make(opened)
    message = [gap, ordering.make(closed, gap.id), *(ordering.make(event) for _ in range(20))]
    for _ in range(5):
        ordering.publish(*message)
    last = ordering.make(event)
    ordering.publish(last)
    eventually(lambda: ordering.counted() == 23)
    assert [item["state"] for item in ordering.items("gaps")] == ["closed"]


def test_poison_is_kept_with_its_reason_and_holds_nothing_up(ordering: Ordering) -> None:
    garbage = f"no findings: {ordering.source}".encode()
    gap = ordering.make(opened, events=3, first=1, last=3)
    ordering.publish(ordering.make(event))
    ordering.producer.send_async(garbage, None)
    ordering.publish(gap, ordering.make(event, partition=PARTITION + 1))
    # Looks well, but more would be missing than ever was: only the database finds that.
    ordering.publish(ordering.make(closed, gap.id, remaining=9))
    ordering.publish(ordering.make(event))
    eventually(lambda: ordering.counted() == 3)
    kept = ordering.rows(
        "SELECT finding, reason FROM ordering_poison"
        " WHERE convert_from(payload, 'UTF8') LIKE %(like)s ORDER BY id",
        {"like": f"%{ordering.source}%"},
    )
    assert [finding for finding, _ in kept] == [-1, 1, -1]
    assert "no array of findings" in kept[0][1]
    assert "came on 1" in kept[1][1]
    assert "refused by the database" in kept[2][1]
    assert ordering.get(f"/v1/ordering/gaps/{gap.id}")["remaining"] == 3
    assert "dds_ordering_poison_total" in ordering.http.get("/metrics").text


def test_a_source_is_asked_for_what_has_not_come_yet(ordering: Ordering) -> None:
    reader = ordering.client.create_reader(RESEND, pulsar.MessageId.latest)
    gap = ordering.make(opened, instrument="EUR/USD")
    ordering.publish(gap, ordering.make(closed, gap.id, first=13, last=14, remaining=8))
    eventually(lambda: len(ordering.items("gaps")) == 1)
    answer = ordering.http.post(f"/v1/ordering/gaps/{gap.id}/resend")
    assert answer.status_code == 202
    assert answer.json()["ranges"] == [{"first": 10, "last": 12}, {"first": 15, "last": 19}]
    messages = [reader.read_next(timeout_millis=10_000) for _ in range(2)]
    requests = [decode_resend_request(message.data()) for message in messages]
    assert [(r.gap_id, r.first, r.last) for r in requests] == [(gap.id, 10, 12), (gap.id, 15, 19)]
    assert {message.partition_key() for message in messages} == {f"{ordering.source}/EUR/USD"}
    assert ordering.get(f"/v1/ordering/gaps/{gap.id}")["resend_requests"] == 1


def test_an_instrument_is_described_from_the_log(ordering: Ordering) -> None:
    name = f"{ordering.source}/X"
    unknown = ordering.http.get(f"/v1/ordering/instruments/{name}")
    assert unknown.status_code == 404
    assert "case-sensitive" in unknown.json()["detail"]
    gap = ordering.make(opened, instrument=name)
    ordering.publish(gap)
    eventually(lambda: len(ordering.items("gaps")) == 1)
    with Publisher(ordering.stack.service_url, name=ordering.source) as publisher:
        for n in range(1, 6):
            publisher.publish(trades([name] * 10, source=[ordering.source] * 10))
            publisher.flush()
            eventually(
                lambda n=n: (
                    ordering.http.get(f"/v1/ordering/instruments/{name}").json().get("sequence")
                    == 10 * n
                )
            )
    time.sleep(3)  # by now a snapshot covers all of it, and nothing stands behind that
    found = ordering.get(f"/v1/ordering/instruments/{name}")
    assert found["complete"]
    assert found["sequence"] == 50
    assert found["sequence_age_seconds"] > 2
    assert found["epoch"] >= 1
    assert [source["source_sequence"] for source in found["sources"]] == [10]
    assert found["sources"][0]["ts_event_age_seconds"] > 0
    assert found["open_gap_count"] == 1
    assert [row["id"] for row in found["open_gaps"]] == [gap.id]


def test_messages_of_a_thousand_findings_are_kept_up_with(ordering: Ordering) -> None:
    for _ in range(30):
        ordering.publish(*(ordering.make(event) for _ in range(1_000)))
    ordering.producer.flush()
    eventually(lambda: ordering.counted() == 30_000)
    follower = ordering.get("/readyz")["ordering_follower"]
    assert follower["role"] == "following"


@pytest.mark.chaos
def test_a_control_plane_killed_while_it_stores_stores_the_rest_once(ordering: Ordering) -> None:
    for _ in range(10):
        ordering.publish_reversals(10)
    eventually(lambda: ordering.counted() > 0)
    ordering.stack.kill("control_plane")
    ordering.publish_reversals(100)
    ordering.stack.start("control_plane")
    ordering.publish_reversals(20)
    eventually(lambda: ordering.counted() == 220 * FINDINGS_A_MESSAGE)
    follower = ordering.get("/readyz")["ordering_follower"]
    assert follower["role"] == "following"


@pytest.mark.chaos
@pytest.mark.parametrize(
    "component", ["postgresql", pytest.param("pulsar", marks=pytest.mark.slow)]
)
def test_what_is_away_is_waited_for(ordering: Ordering, component: str) -> None:
    ordering.publish_reversals(20)
    eventually(lambda: ordering.counted() > 0)
    ordering.stack.kill(component)
    time.sleep(3)
    follower = ordering.http.get("/readyz").json()["ordering_follower"]
    assert "does not answer" in follower["detail"] or follower["role"] == "following"
    if component == "postgresql":
        ordering.publish_reversals(20)
        ordering.stack.start(component)
    else:
        ordering.stack.start(component)
        ordering.publish_reversals(20)
    eventually(lambda: ordering.counted() == 40 * FINDINGS_A_MESSAGE)


@pytest.mark.chaos
def test_a_topic_that_ends_before_what_is_stored_is_read_from_its_start(ordering: Ordering) -> None:
    ordering.publish_reversals(5)
    eventually(lambda: ordering.counted() == 5 * FINDINGS_A_MESSAGE)
    ordering.stack.kill("control_plane")
    with psycopg.connect(ordering.stack.database_url) as connection:
        connection.execute(
            "UPDATE ordering_positions SET ledger_id = ledger_id + 1000000 WHERE partition = %s",
            (PARTITION,),
        )
    ordering.publish_reversals(5)
    ordering.stack.start("control_plane")
    eventually(lambda: ordering.counted() == 10 * FINDINGS_A_MESSAGE)


@pytest.mark.chaos
def test_of_two_control_planes_one_stores_and_the_other_takes_over(
    ordering: Ordering, second: str
) -> None:
    stack = ordering.stack
    for _ in range(5):
        ordering.publish_reversals(20)
    stack.kill("control_plane")
    for _ in range(5):
        ordering.publish_reversals(20)
    eventually(lambda: ordering.counted() == 200 * FINDINGS_A_MESSAGE)
    assert _role(second) == "following"
    stack.start("control_plane")
    eventually(lambda: _role(f"{stack.control_plane_url}/readyz") == "standby")


@pytest.mark.chaos
@pytest.mark.slow
def test_a_frozen_control_plane_is_replaced_and_stores_nothing_twice(
    ordering: Ordering, second: str
) -> None:
    stack = ordering.stack
    ordering.publish_reversals(20)
    stack.kill("control_plane", signal.SIGSTOP)
    try:
        ordering.publish_reversals(20)
        eventually(lambda: _role(second) == "following")
        eventually(lambda: ordering.counted() == 40 * FINDINGS_A_MESSAGE)
    finally:
        stack.kill("control_plane", signal.SIGCONT)
    ordering.publish_reversals(20)
    eventually(lambda: _role(f"{stack.control_plane_url}/readyz") == "standby")
    eventually(lambda: ordering.counted() == 60 * FINDINGS_A_MESSAGE)


@pytest.fixture
def second(stack: Any) -> Iterator[str]:
    """The readiness of a second control plane that stands by beside the stack's."""
    port = _free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "control_plane"],
        env={**os.environ, **stack.environment(), "DDS_HTTP_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/readyz"
        eventually(lambda: _role(f"{stack.control_plane_url}/readyz") == "following")
        eventually(lambda: _role(url) == "standby")
        yield url
    finally:
        process.kill()
        process.wait()
    eventually(lambda: _role(f"{stack.control_plane_url}/readyz") == "following")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _role(url: str) -> str:
    try:
        return str(httpx.get(url, timeout=5).json()["ordering_follower"]["role"])
    except httpx.HTTPError:
        return "away"
