"""Starts a function instance with the functions' own token instead of the worker's.

The functions worker starts this file in place of Pulsar's `python_instance_main.py` and hands over
its own credentials, which are a superuser's: without a Java plug-in it has no others. What runs
then is Pulsar's file, in the same process, with the token file of `DDS_FUNCTIONS_TOKEN_FILE`.
Standard library only.
"""

import os
import sys

_PARAMETERS = "--client_auth_params"


def main(arguments: list[str]) -> None:
    """Replace this process by Pulsar's runtime; the arguments name a file, never a token."""
    given = list(arguments)
    given[given.index(_PARAMETERS) + 1] = f"file://{os.environ['DDS_FUNCTIONS_TOKEN_FILE']}"
    runtime = os.environ["DDS_PYTHON_INSTANCE"]
    os.execv(sys.executable, [sys.executable, runtime, *given])  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
