"""`subscriptions`: many subscriptions made over HTTP, and how lists and single ones are read.

First one subscription for each distinct view, which needs a topic at the broker and a plan, then
some of the others, which share those, each by a request of its own, and the rest `--batch` by a
request. Meanwhile and afterwards subscriptions are listed (100 a page) and
read one by one. A request's time is from its sending to the whole answer.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
from collections.abc import Sequence
from typing import Self

import numpy as np

from benchmarks.connections import Answered, Connections, connected
from benchmarks.figures import Measured, Sample
from benchmarks.population import Population, add_population_arguments, pages
from benchmarks.rig import add_stack_arguments, bench_stack

SUMMARY = "making many subscriptions over HTTP, and listing and reading them"
READ_PAUSE_S = 0.05
READS = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_stack_arguments(parser)
    parser.add_argument("--count", type=int, default=100_000, help="(default 100,000)")
    parser.add_argument(
        "--single", type=int, default=500, help="made by a request each (default 500)"
    )
    parser.add_argument(
        "--batch", type=int, default=250, help="the others, by each request (default 250)"
    )
    add_population_arguments(parser)


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times on one stack; a later run adds to what the others made."""
    with bench_stack(options) as stack:
        runs = [_run(stack.control_plane_url, options) for _ in range(options.runs)]
    settings = {
        name: getattr(options, name)
        for name in ("count", "consumers", "views", "connections", "batch")
    }
    return Measured(runs, settings)


def _run(url: str, options: argparse.Namespace) -> dict[str, Sample]:
    views = min(options.views, options.count)
    with connected(url, options.connections) as api, connected(url, 1) as reading:
        population = Population(api, consumers=options.consumers, views=views)
        samples = _rate("consumers", population.register())
        try:
            samples |= _rate("views", population.subscribe(range(views)))
            samples["views_active_after_s"] = Sample(population.await_active(), "s")
            single = min(views + options.single, options.count)
            samples |= _rate("single", population.subscribe(range(views, single)))
            with _Reader(reading, population) as reader:
                rest = population.subscribe_together(range(single, options.count), options.batch)
            samples |= _rate("subscriptions", rest, options.count - single)
            samples |= reader.samples("meanwhile")
            samples["subscriptions_active_after_s"] = Sample(population.await_active(), "s")
            with _Reader(reading, population, pause_s=0) as reader:
                reader.finished.wait()
            samples |= reader.samples("afterwards")
        finally:
            if options.keep:
                population.remove()
    return samples


class _Reader(threading.Thread):
    """Lists and reads, in turn, until it has enough or is ended."""

    def __init__(
        self, api: Connections, population: Population, pause_s: float = READ_PAUSE_S
    ) -> None:
        super().__init__(daemon=True)
        self._api = api
        self._population = population
        self._pause_s = pause_s
        self._ending = threading.Event()
        self._lists: list[float] = []
        self._gets: list[float] = []
        self._of_one: list[float] = []
        self.finished = threading.Event()

    def __enter__(self) -> Self:
        """Begin."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ending.set()
        self.join()

    def run(self) -> None:
        """Read."""
        chosen = random.Random(1)
        endless = self._pause_s > 0
        while not self._ending.is_set() and (endless or len(self._gets) < READS):
            for page in pages(self._api, 20):
                self._lists.append(page.took_ms)
                key = chosen.choice(self._population.made)
                self._gets.append(self._api.ask("GET", f"/subscriptions/{key}").took_ms)
                owner = self._population.owner_of(chosen.randrange(len(self._population.made)))
                listed = self._api.ask("GET", f"/subscriptions?consumer={owner}")
                self._of_one.append(listed.took_ms)
                if self._ending.wait(self._pause_s):
                    break
        self.finished.set()

    def samples(self, when: str) -> dict[str, Sample]:
        """Quantiles of what was read."""
        found = {"list": self._lists, "list_of_consumer": self._of_one, "get": self._gets}
        return {
            f"{name}_{when}_p{quantile}_ms": Sample(float(np.percentile(took, quantile)), "ms")
            for name, took in found.items()
            for quantile in (50, 99)
            if took
        }


def _rate(what: str, answers: Sequence[Answered], count: int | None = None) -> dict[str, Sample]:
    """How many a second, of as many as there are answers or of `count`, and how long each took."""
    if not answers:
        return {}
    count = len(answers) if count is None else count
    seconds = max(each.answered_s for each in answers) - min(each.asked_s for each in answers)
    rate = count / seconds
    print(f"{count} {what}: {rate:.0f} a second", file=sys.stderr)
    took = [each.took_ms for each in answers]
    return {
        f"{what}_per_second": Sample(rate, "1/s"),
        f"{what}_p50_ms": Sample(float(np.percentile(took, 50)), "ms"),
        f"{what}_p99_ms": Sample(float(np.percentile(took, 99)), "ms"),
    }
