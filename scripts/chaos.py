#!/usr/bin/env python3
"""Chaos: faults by a seed on a stack of one's own while events flow, then proof that none was lost.

    .venv/bin/python scripts/chaos.py                               # 2 minutes, a seed of its own
    .venv/bin/python scripts/chaos.py --seed 7 --minutes 30 --report docs/chaos-report.md
    .venv/bin/python scripts/chaos.py --faults kill-broker,change-plan
    .venv/bin/python scripts/chaos.py --list                        # the faults there are

It brings a stack up (below --home), publishes from three processes, reads with plain Pulsar
clients, kills, pauses, restarts, redeploys and scales what the seed says, and has the independent
checker of scripts/verification judge every few minutes. It ends by itself, ends only what it has
started, and takes the stack down. The same seed gives the same schedule of faults.

exit codes:
  0  every accepted event arrived once, in order, unchanged, wherever it was due
  1  it did not, or something did not recover; the report says what
  2  wrong usage
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
if __package__ is None or __package__ == "":
    sys.path.insert(0, str(ROOT))

from scripts.devstack.console import Console  # noqa: E402 - path set above
from scripts.devstack.errors import StackError  # noqa: E402 - path set above
from scripts.devstack.stack import Stack  # noqa: E402 - path set above
from scripts.faults.kinds import FaultKind  # noqa: E402 - path set above
from scripts.faults.report import figures, markdown  # noqa: E402 - path set above
from scripts.faults.run import Chaos, Outcome, Settings  # noqa: E402 - path set above
from scripts.faults.topology import own_topology  # noqa: E402 - path set above

OK: Final = 0
BROKEN: Final = 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = parser().parse_args(arguments)
    if options.list:
        for kind in FaultKind:
            print(kind)
        return OK
    settings = Settings(
        seed=random.randrange(1_000_000) if options.seed is None else options.seed,  # noqa: S311
        seconds=options.minutes * 60,
        rate=options.rate,
        kinds=options.faults,
        part_seconds=options.check_every,
    )
    # A terminated run stops what it started, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        outcome = run(options, settings)
    except StackError as error:
        print(error.report(), file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        print("interrupted; nothing was judged", file=sys.stderr)
        return BROKEN
    text = markdown(outcome)
    print(text)
    if options.report is not None:
        options.report.write_text(text, "utf-8")
    if options.json is not None:
        options.json.write_text(json.dumps(figures(outcome), indent=2), "utf-8")
    return OK if outcome.ok else BROKEN


def run(options: argparse.Namespace, settings: Settings) -> Outcome:
    """Stack up, chaos, stack down."""
    console = Console()
    stack = Stack(options.home, console=console)
    console.line(f"seed {settings.seed}")
    if not options.keep:
        stack.reset()
    try:
        with own_topology(stack) as topology:
            return Chaos(stack, topology, settings, console.line).run()
    finally:
        if not options.keep:
            # Data and logs stay for whoever looks for a reason; the next run deletes them.
            stack.down()


def parser() -> argparse.ArgumentParser:
    """The command line; its --help is this module's text."""
    root = argparse.ArgumentParser(
        prog="chaos.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--seed", type=int, help="of the schedule (default: a random one, printed)")
    root.add_argument(
        "--minutes", type=_positive, default=2.0, help="of load and faults (default: 2)"
    )
    root.add_argument(
        "--rate",
        type=int,
        default=15_000,
        help="events a second of all publishers together (default: 15000)",
    )
    root.add_argument(
        "--faults",
        type=_kinds,
        default=tuple(FaultKind),
        metavar="A,B,C",
        help="which may happen (default: all; --list names them)",
    )
    root.add_argument("--list", action="store_true", help="name the faults")
    root.add_argument(
        "--check-every",
        type=_positive,
        default=180.0,
        metavar="SECONDS",
        help="load between two judgements (default: 180); memory grows with it",
    )
    root.add_argument("--report", type=Path, metavar="FILE", help="write the report here, too")
    root.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    root.add_argument("--home", type=Path, default=ROOT / ".dds-chaos", help="of the stack to hurt")
    root.add_argument(
        "--keep",
        action="store_true",
        help="go on with the stack that is there and leave it up; otherwise it starts empty",
    )
    return root


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("give more than 0")
    return number


def _kinds(text: str) -> tuple[FaultKind, ...]:
    try:
        return tuple(FaultKind(name.strip()) for name in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; --list names the faults") from error


if __name__ == "__main__":
    sys.exit(main())
