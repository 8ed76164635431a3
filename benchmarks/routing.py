"""`routing`: the router alone, with plans of more and more views, on one core.

Every view wants twenty instruments of its own choice, and of them what passes a term on the price
or comes from one venue: the views that an event matches stay few while the plan grows, so what is
measured is whether cost follows the matches and not the plan.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.figures import Measured, Sample
from benchmarks.pool import Pool, instrument_name, instrument_names
from functions.operators.route import Router
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.filters import compile_filter
from marketdata.frames import frame_kind
from marketdata.plans import ViewSpec, compile_plan
from marketdata.sources.synthetic import VENUES_OF_REGION
from marketdata.splitting import split_rows

SUMMARY = "the router on one core with 16, 1,000 and 10,000 views"
INSTRUMENTS_OF_VIEW = 20
VENUES = [venue for of_region in VENUES_OF_REGION.values() for venue in of_region]
PRICES_CENTS = (5_00, 500_00)
"""Between these lie the bounds of the views' prices."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run (default 3)")
    parser.add_argument("--instruments", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=8192, help="events in a frame (default 8192)")
    parser.add_argument("--views", type=int, nargs="+", default=[16, 1_000, 10_000])


def measure(options: argparse.Namespace) -> Measured:
    """Run it `options.runs` times."""
    frames = sequenced_frames(options.instruments, options.rows)
    runs: list[dict[str, Sample]] = [{} for _ in range(options.runs)]
    for views in options.views:
        plan = compile_plan(1, specs(views, options.instruments), created_at_ns=0)
        for run in runs:
            started = time.perf_counter()
            router = Router(plan)
            made_ms = (time.perf_counter() - started) * 1e3
            run[f"router_ready_ms_{views}_views"] = Sample(made_ms, "ms")
            run.update(_run(router, frames, options.seconds, views))
    settings = {
        "seconds": options.seconds,
        "instruments": options.instruments,
        "instruments_per_view": INSTRUMENTS_OF_VIEW,
        "rows_per_frame": options.rows,
    }
    return Measured(runs, settings)


def sequenced_frames(instruments: int, rows: int) -> list[tuple[Any, str]]:
    """Twenty frames of the log with their kinds; instruments are active by Zipf's law."""
    names = instrument_names(instruments)
    pool = iter(Pool("bench", events=20 * rows, batch_rows=rows, names=names, views=1))
    sequences = InstrumentSequences()
    frames = []
    for batch, _ in (next(pool) for _ in range(20)):
        kind = frame_kind(batch)
        numbers = sequences.assign(batch)
        frames.append((with_sequences(batch, kind, numbers, epoch=1, ts_sequenced_ns=0), kind))
    return frames


def specs(views: int, instruments: int) -> list[ViewSpec]:
    """Views with the filters of `filter_texts`."""
    compiled = map(compile_filter, filter_texts(views, instruments))
    return [ViewSpec(filter=each.canonical, predicate=each.to_json()) for each in compiled]


def filter_texts(views: int, instruments: int) -> list[str]:
    """Filters of twenty instruments each, every other one with a term on the price or the venue."""
    random = np.random.Generator(np.random.PCG64(views))
    made = []
    for number in range(views):
        chosen = random.choice(instruments, INSTRUMENTS_OF_VIEW, replace=False)
        names = ", ".join(f"'{instrument_name(int(each))}'" for each in chosen)
        bound = random.integers(*PRICES_CENTS) / 100
        term = f"(price > {bound} OR bid_price > {bound})"
        if number % 2:
            term = f"venue IN ('{random.choice(VENUES)}', '{random.choice(VENUES)}')"
        made.append(f"instrument IN ({names}) AND {term}")
    return made


def _run(
    router: Router, frames: list[tuple[Any, str]], seconds: float, views: int
) -> dict[str, Sample]:
    for batch, kind in frames:
        list(router.route(batch, kind))
    events = taken = 0
    route_ns = take_ns = matches = 0
    started = time.perf_counter()
    while time.perf_counter() < started + seconds:
        for batch, kind in frames:
            before = time.perf_counter_ns()
            routed = list(router.route(batch, kind))
            between = time.perf_counter_ns()
            pieces = split_rows(batch, [rows for _, rows in routed if rows is not None])
            taken += sum(piece.num_rows for piece in pieces)
            take_ns += time.perf_counter_ns() - between
            route_ns += between - before
            matches += len(routed)
            events += batch.num_rows
            if time.perf_counter() >= started + seconds:
                break
    return {
        f"events_per_second_{views}_views": Sample(events / (route_ns / 1e9), "events/s"),
        f"matches_per_second_{views}_views": Sample(matches / (route_ns / 1e9), "views/s"),
        f"taken_rows_per_second_{views}_views": Sample(taken / (take_ns / 1e9), "events/s"),
    }
