"""The command line of the benchmarks.

Exit codes: 0 measured, 1 no figure could be given (events were missing, a component failed),
2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from benchmarks import (
    computing,
    end_to_end,
    enriching,
    fan_out,
    formats,
    lanes,
    latency,
    live,
    memory,
    peer,
    plans,
    recovery,
    routing,
    sequencing,
    subscribing,
)
from benchmarks.figures import BenchmarkFailed, report
from benchmarks.plotting import draw
from scripts.devstack.component import CHECKOUT
from scripts.devstack.errors import StackError

BENCHMARKS: Mapping[str, ModuleType] = {
    "computing": computing,
    "enriching": enriching,
    "end-to-end": end_to_end,
    "fan-out": fan_out,
    "formats": formats,
    "lanes": lanes,
    "latency": latency,
    "live": live,
    "memory": memory,
    "peer": peer,
    "plans": plans,
    "recovery": recovery,
    "routing": routing,
    "sequencing": sequencing,
    "subscriptions": subscribing,
}
"""Each has SUMMARY, add_arguments(parser) and measure(options) -> Measured."""


def main(arguments: Sequence[str]) -> int:
    """Run one benchmark and return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list or "--list" in arguments:
        width = max(map(len, BENCHMARKS))
        for name, module in BENCHMARKS.items():
            print(f"{name:<{width}}  {module.SUMMARY}")
        return 0
    if options.name is None:
        parser.error(f"name a benchmark: {', '.join(BENCHMARKS)}")
    # A terminated benchmark stops what it started, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        measured = BENCHMARKS[options.name].measure(options)
    except StackError as error:
        print(error.report(), file=sys.stderr)
        return 1
    except BenchmarkFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was measured", file=sys.stderr)
        return 130
    found = report(options.name, measured, CHECKOUT)
    print(found.to_markdown())
    if options.json is not None:
        options.json.write_text(found.to_json(), "utf-8")
    if options.plot is not None and found.panels:
        draw(found.panels, f"{found.name}, {found.commit[:12]}", options.plot)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.py", description="Measures the service and parts of it."
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks")
    commands = parser.add_subparsers(dest="name", metavar="NAME")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--json", type=Path, help="write the report to this file, too")
        command.add_argument("--plot", type=Path, help="draw to this file (.png or .svg)")
        command.add_argument("--runs", type=_positive, default=3, help="how often (default 3)")
        module.add_arguments(command)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give at least 1")
    return number
