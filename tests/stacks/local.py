"""Stacks of `scripts/dev.py` in tests."""

import pytest

from scripts.devstack.errors import StackError
from scripts.devstack.stack import Stack


def brought_up(stack: Stack) -> None:
    """Bring it up; where that fails, the test fails with what its user would read."""
    try:
        stack.up()
    except StackError as error:
        pytest.fail(error.report(), pytrace=False)
