#!/usr/bin/env python3
"""Measures: `python3 scripts/bench.py NAME [--json FILE]`; `--list` names the benchmarks.

Like `scripts/dev.py` this file needs only the standard library: it makes the checkout's virtual
environment when that is missing and then runs itself in it.
"""

# An older Python has to get as far as the error that names it.
# ruff: noqa: PTH100, PTH120, UP032, UP036, PLC0415, S606

import os
import sys

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INSIDE = "DDS_BENCH_INSIDE"


def main() -> None:
    """Make the environment, then hand over to the benchmarks in it."""
    if sys.version_info < (3, 11):
        sys.exit(
            "error: Python 3.11 or newer is needed, this is {}.{} ({})\n"
            "what to do: run it with a newer one, for example `python3.12 scripts/bench.py`".format(
                sys.version_info[0], sys.version_info[1], sys.executable
            )
        )
    sys.path[0] = CHECKOUT
    if os.environ.get(INSIDE) == CHECKOUT:
        del os.environ[INSIDE]
        from benchmarks.cli import main as run

        sys.exit(run(sys.argv[1:]))

    from pathlib import Path

    from scripts.devstack.bootstrap import ensure_environment
    from scripts.devstack.console import Console
    from scripts.devstack.errors import StackError

    try:
        python = ensure_environment(Path(CHECKOUT), Console())
    except StackError as error:
        sys.exit(error.report())
    except KeyboardInterrupt:
        sys.exit("interrupted; run the command again to go on")
    os.environ[INSIDE] = CHECKOUT
    os.execv(str(python), [str(python), os.path.abspath(__file__), *sys.argv[1:]])


if __name__ == "__main__":
    main()
