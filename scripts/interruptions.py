#!/usr/bin/env python3
"""Interrupts the control plane by a seed, and shows that the desired state comes about each time.

    .venv/bin/python scripts/interruptions.py                         # 100, a seed of its own
    .venv/bin/python scripts/interruptions.py --seed 7 --count 1000 --burst 5 --secure

It brings a stack up (below --home), and for each interruption asks for a change over HTTP, and
kills, stops or alters something meanwhile. After a burst of them, up to --burst, it compares the
broker with the database until they agree. It ends with the first burst that is not overcome within
five minutes, and takes the stack down.

exit codes:
  0  every interruption was overcome
  1  one was not, or a component does not start again; the last line says what
  2  wrong usage
"""

from __future__ import annotations

import argparse
import os
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
from scripts.faults.interruptions import HASTE, Seen, interrupted  # noqa: E402 - path set above


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = parser().parse_args(arguments)
    seed = random.randrange(1_000_000) if options.seed is None else options.seed  # noqa: S311
    # A terminated run stops what it started, as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.update(HASTE)
    console = Console()
    console.line(f"seed {seed}")
    stack = Stack(options.home, console=console)
    try:
        if not options.keep:
            stack.reset()
        stack.up(secure=options.secure)
        os.environ.update(stack.environment())
        seen = interrupted(stack, seed, options.count, options.burst, console)
    except StackError as error:
        print(error.report(), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was judged", file=sys.stderr)
        return 1
    finally:
        if not options.keep:
            # Data and logs stay for whoever looks for a reason; the next run deletes them.
            stack.down()
    print(summary(seen))
    return 1 if seen.failure else 0


def summary(seen: Seen) -> str:
    """What was seen, as a table for people."""
    lines = [f"{'interruption':<20} {'times':>6} {'median s':>9} {'longest s':>10}"]
    for kind, seconds in sorted(seen.seconds.items()):
        median = sorted(seconds)[len(seconds) // 2]
        lines.append(f"{kind:<20} {seen.happened[kind]:>6} {median:>9.1f} {max(seconds):>10.1f}")
    verdict = seen.failure or "every time the desired state came about"
    told = (
        f"seed {seen.seed}: {seen.happened.total()} interruptions in {seen.bursts} bursts,"
        f" {seen.changes} changes; {verdict}"
    )
    return "\n".join([*lines, told])


def parser() -> argparse.ArgumentParser:
    """The command line; its --help is this module's text."""
    root = argparse.ArgumentParser(
        prog="interruptions.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--seed", type=int, help="of the schedule (default: a random one, printed)")
    root.add_argument("--count", type=int, default=100, help="of interruptions (default: 100)")
    root.add_argument(
        "--burst", type=int, default=1, help="most of them before all has to be well (default: 1)"
    )
    root.add_argument("--secure", action="store_true", help="with TLS, tokens and grants")
    root.add_argument("--home", type=Path, default=ROOT / ".dds-interruptions", help="of the stack")
    root.add_argument(
        "--keep",
        action="store_true",
        help="go on with the stack that is there and leave it up; otherwise it starts empty",
    )
    return root


if __name__ == "__main__":
    sys.exit(main())
