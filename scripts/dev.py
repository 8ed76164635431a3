#!/usr/bin/env python3
"""One command for a running system: `python3 scripts/dev.py demo`, or `--help` for the others.

This file and what it imports need only the standard library of Python 3.11. It makes the
checkout's virtual environment and then runs itself in it. Written so that an older Python can
parse it and say what is wrong.
"""

# An older Python has to get as far as the error that names it.
# ruff: noqa: PTH100, PTH120, UP032, UP036, PLC0415, S606

import os
import sys

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
INSIDE = "DDS_DEV_INSIDE"


def main() -> None:
    """Make the environment, then hand over to the commands in it."""
    if sys.version_info < (3, 11):
        sys.exit(
            "error: Python 3.11 or newer is needed, this is {}.{} ({})\n"
            "what to do: run it with a newer one, for example `python3.12 scripts/dev.py`".format(
                sys.version_info[0], sys.version_info[1], sys.executable
            )
        )
    if os.name != "posix":
        sys.exit(
            "error: the local stack runs on Linux and macOS only\n"
            "what to do: on Windows run it in WSL"
        )
    sys.path[0] = CHECKOUT
    if os.environ.get(INSIDE) == CHECKOUT:
        del os.environ[INSIDE]
        from scripts.devstack.cli import main as run

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
