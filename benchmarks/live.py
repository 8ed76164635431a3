"""`live`: how soon a new subscription to a view that nobody had receives events.

One subscription after the other is made over HTTP, each to a view of its own, while one event every
10 ms is published that all of them want. Of each, from the sending of the POST and from its answer:

- until every instance of the distributor runs a plan that holds it, as they report on
  `control/status`;
- until the first event arrives at an ordinary Pulsar consumer, subscribed after the answer.

Before that `--existing` subscriptions are made, or as many as each of these says; they need not be
active: the outbox may still work them off, which is what a busy service does.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
import numpy as np
import pulsar

from benchmarks.connections import Connections, connected
from benchmarks.figures import BenchmarkFailed, Measured, Sample
from benchmarks.pool import Pool
from benchmarks.population import Population, add_population_arguments
from benchmarks.rig import add_stack_arguments, bench_stack
from marketdata.publisher import Publisher
from marketdata.topics import STATUS
from scripts.devstack.stack import Stack

SUMMARY = "how soon a new subscription receives events, beside none and many others"
TIMEOUT_S = 60.0
TICK_S = 0.01
INSTRUMENT = "LIVE0"
BATCH = 250
"""Subscriptions by a request."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_stack_arguments(parser)
    parser.add_argument("--count", type=int, default=50, help="new subscriptions (default 50)")
    parser.add_argument(
        "--existing",
        type=int,
        nargs="+",
        default=[0, 10_000],
        help="subscriptions that are there before (default 0 10000)",
    )
    add_population_arguments(parser)


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times, on one stack, for each number of others."""
    runs: list[dict[str, Sample]] = [{} for _ in range(options.runs)]
    made = 0
    with bench_stack(options) as stack, ExitStack() as parts:
        api = parts.enter_context(connected(stack.control_plane_url, options.connections))
        population = Population(api, consumers=options.consumers, views=options.views)
        if options.keep:
            parts.callback(population.remove)
        for existing in sorted(options.existing):
            if existing and not made:
                population.register()
            # One by one for each view, the others, which join those, together.
            first = range(made, min(existing, options.views))
            population.subscribe(first)
            population.subscribe_together(range(max(made, options.views), existing), BATCH)
            made = max(made, existing)
            for number, run in enumerate(runs, 1):
                run.update(_run(stack, api, options.count, existing))
                print(f"{existing} others: run {number} of {options.runs}", file=sys.stderr)
    settings = {name: getattr(options, name) for name in ("count", "existing", "views")}
    return Measured(runs, settings)


def _run(stack: Stack, api: Connections, count: int, existing: int) -> dict[str, Sample]:
    consumer = f"live-{time.time_ns():x}"
    api.ask("POST", "/consumers", {"name": consumer, "entitlements": {}})
    found: dict[str, list[float]] = {}
    pending = 0
    with ExitStack() as parts:
        client = pulsar.Client(
            stack.service_url,
            operation_timeout_seconds=int(TIMEOUT_S),
            logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
        )
        parts.callback(client.close)
        reports = parts.enter_context(_reports(client, _instances(api)))
        parts.enter_context(_events(stack))
        for number in range(count):
            request = {
                "consumer": consumer,
                "name": f"live-{number}",
                # No two are the same, and each wants what is published.
                "filter": f"instrument IN ('{INSTRUMENT}', '{consumer}-{number}')",
            }
            answered = api.ask("POST", "/subscriptions", request)
            body = answered.body
            parts.callback(api.ask, "DELETE", f"/subscriptions/{body['id']}")
            pending += body["state"] == "pending"
            reader = client.subscribe(
                body["topic"],
                body["subscription_name"],
                consumer_type=pulsar.ConsumerType.Failover,
            )
            arrived = _first_event(reader)
            reader.close()
            running = reports.running_since(body["plan"])
            for what, at in (("running", running), ("received", arrived)):
                for since, start in (("sent", answered.asked_s), ("answered", answered.answered_s)):
                    found.setdefault(f"{what}_after_{since}", []).append((at - start) * 1e3)
            found.setdefault("answered_after_sent", []).append(answered.took_ms)
    samples = {
        f"{name}_p{quantile}_ms_{existing}_others": Sample(
            float(np.percentile(took, quantile)), "ms"
        )
        for name, took in found.items()
        for quantile in (0, 50, 99, 100)
    }
    samples[f"pending_{existing}_others"] = Sample(float(pending), "subscriptions")
    return samples


def _instances(api: Connections) -> int:
    functions = api.ask("GET", "/functions").body["items"]
    return int(
        next(each["expected_instances"] for each in functions if each["name"] == "distributor")
    )


def _first_event(reader: pulsar.Consumer) -> float:
    """When the first message with events was there."""
    deadline = time.perf_counter() + TIMEOUT_S
    while time.perf_counter() < deadline:
        message = reader.receive(timeout_millis=int(TIMEOUT_S * 1000))
        at = time.perf_counter()
        if int(message.properties().get("count", "0")):
            return at
    raise BenchmarkFailed(
        f"no event arrived within {TIMEOUT_S:.0f} s; look at the distributor's log"
    )


class _Reports(threading.Thread):
    """When which plan was first run by every instance, as far as the topic of reports tells."""

    def __init__(self, client: pulsar.Client, instances: int) -> None:
        super().__init__(daemon=True)
        self._reader = client.create_reader(STATUS, pulsar.MessageId.latest)
        self._instances = instances
        self._plans: dict[int, int] = {}
        self._since: list[tuple[int, float]] = []
        self._news = threading.Condition()
        self.ended = threading.Event()

    def run(self) -> None:
        """Follow the topic."""
        while not self.ended.is_set():
            try:
                message = self._reader.read_next(timeout_millis=500)
            except pulsar.Timeout:
                continue
            report: dict[str, Any] = msgspec.json.decode(message.data())
            if report["function"] != "distributor":
                continue
            with self._news:
                before = self._everywhere()
                self._plans[report["instance"]] = report["plan"]
                if self._everywhere() > before:
                    self._since.append((self._everywhere(), time.perf_counter()))
                    self._news.notify_all()
        self._reader.close()

    def running_since(self, plan: int) -> float:
        """When every instance was first known to run this plan or a later one."""
        with self._news:
            if not self._news.wait_for(lambda: self._everywhere() >= plan, TIMEOUT_S):
                raise BenchmarkFailed(f"plan {plan} is not run by every distributor; see its log")
            return next(at for number, at in self._since if number >= plan)

    def _everywhere(self) -> int:
        return min(self._plans.values()) if len(self._plans) >= self._instances else -1


@contextmanager
def _reports(client: pulsar.Client, instances: int) -> Iterator[_Reports]:
    reports = _Reports(client, instances)
    reports.start()
    reports.running_since(0)
    try:
        yield reports
    finally:
        reports.ended.set()
        reports.join()


@contextmanager
def _events(stack: Stack, names: Sequence[str] = (INSTRUMENT,)) -> Iterator[None]:
    """One event every 10 ms of one instrument, until the end."""
    pool = iter(Pool(f"live-{time.time_ns():x}", events=1_000, batch_rows=1, names=names, views=1))
    ended = threading.Event()

    def publish() -> None:
        with Publisher(stack.service_url, name=f"live-{time.time_ns():x}") as publisher:
            while not ended.wait(TICK_S):
                batch, _ = next(pool)
                publisher.publish(batch)

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
