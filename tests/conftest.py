"""What all tests share: the markers, and the local stack for those that need real servers.

The stack is the one of `scripts/dev.py` with a home of its own (`.dds-test`, or DDS_TEST_HOME).
It is brought up when the first test asks for it and taken down after the last one, unless
DDS_KEEP_STACK is set.

Tests run in random order, those that hurt the shared stack last, and each of them finds it whole.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

CHECKOUT = Path(__file__).resolve().parents[1]
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

from scripts.devstack.console import Console  # noqa: E402  (needs the path above)
from scripts.devstack.errors import StackError  # noqa: E402
from scripts.devstack.stack import Stack  # noqa: E402

# How long an example takes says something of the machine, not of the code.
settings.register_profile("dds", deadline=None)
settings.load_profile("dds")

_MARKERS = {
    "integration": "needs one or more real servers",
    "e2e": "runs the whole system end to end",
    "chaos": "kills processes of the stack",
    "slow": "takes more than about ten seconds",
}


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that hurt the stack come last; among themselves both stay shuffled."""
    items.sort(key=lambda item: item.get_closest_marker("chaos") is not None)


@pytest.fixture(autouse=True)
def _whole(request: pytest.FixtureRequest) -> None:
    """Bring back what an earlier test took down and what has not come back by itself."""
    hurts = request.node.get_closest_marker("chaos") is not None
    if hurts and "stack" in request.fixturenames:
        request.getfixturevalue("stack").up()


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The running local stack: `.service_url`, `.admin_url`, `.database_url`, `.kill(...)` …"""
    home = Path(os.environ.get("DDS_TEST_HOME") or CHECKOUT / ".dds-test")
    local = Stack(home, console=Console(sys.__stderr__))
    try:
        local.up()
    except StackError as error:
        pytest.fail(error.report(), pytrace=False)
    try:
        yield local
    finally:
        if not os.environ.get("DDS_KEEP_STACK"):
            local.down()
