"""What all tests share: the markers, and the stack for those that need real servers.

The stack is the one of `scripts/dev.py` with a home of its own (`.dds-test`, or DDS_TEST_HOME).
It is brought up when the first test asks for it and taken down after the last one, unless
DDS_KEEP_STACK is set. `--stack` chooses another one (tests/stacks/interface.py).

Tests run in random order, those that hurt the shared stack last, and each of them finds it whole.
With more processes than one (`--numprocesses`), all that use servers of a stack run in one of them.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_timeout
from hypothesis import is_hypothesis_test, settings

CHECKOUT = Path(__file__).resolve().parents[1]
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))

from scripts.devstack.console import Console  # noqa: E402  (needs the path above)
from scripts.devstack.stack import Stack  # noqa: E402
from tests.stacks.cluster import ClusterStack  # noqa: E402
from tests.stacks.containers import ContainerStack  # noqa: E402
from tests.stacks.interface import RunningStack  # noqa: E402
from tests.stacks.local import brought_up  # noqa: E402
from tests.stacks.remote import RemoteStack  # noqa: E402

# Seldom: a process stood still for ever where a collection within `Thread.start` had ended a weak
# reference, whose callback coverage followed. It saves time besides.
gc.set_threshold(100_000, 20, 20)

# How long an example takes says something of the machine, not of the code.
settings.register_profile("dds", deadline=None)
settings.load_profile("dds")

_MARKERS = {
    "integration": "needs one or more real servers",
    "e2e": "runs the whole system end to end",
    "chaos": "kills processes of the stack",
    "slow": "takes more than about ten seconds",
    "any_stack": "passes on every stack that --stack can choose",
    "cluster": "passes on the cluster in containers; without any_stack, on no other",
}


_TERMINAL = pytest.StashKey[int]()
_CLEAN_UP_S = 180.0
"""How long after its time limit a test may take to clean up behind itself."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The stack that tests run on."""
    parser.addoption(
        "--stack",
        default="local",
        metavar="local|containers|cluster|URL",
        help="the stack of scripts/dev.py (default), compose.yaml in containers of its own, the "
        "cluster of compose.cluster.yaml likewise, or one that runs: the URL of its control plane, "
        "with DDS_PULSAR_SERVICE_URL set",
    )


def pytest_itemcollected(item: pytest.Item) -> None:
    """Leave properties of filters, formats and frames out of coverage.

    Its tracing doubles the time of their many examples, and what they run through is what other
    tests have to reach.
    """
    is_property = isinstance(item, pytest.Function) and is_hypothesis_test(item.obj)
    if is_property and "marketdata" in item.path.parts:
        item.add_marker(pytest.mark.no_cover)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """All tests on a stack to one process, one behind the other; any other test to any process.

    Not `--dist=loadgroup`: its groups are lost with pytest 9.2 (pytest-xdist 3.8).
    """
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415  (only where it is used)

    class OneStack(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            on_stack = nodeid.startswith(("tests/integration/", "tests/e2e/"))
            return "stack" if on_stack else nodeid

        def remove_node(self, node: Any) -> str | None:
            """What a process that died still had is not run by another one: it would die, too."""
            work = self.assigned_work.pop(node).values()
            left = [name for unit in work for name, done in unit.items() if not done]
            if left:
                print(f"\n{len(left)} tests are not run: {left[0]} ended it", file=sys.__stderr__)
            return left[0] if left else None

    return OneStack(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that hurt the stack come last; among themselves both stay shuffled.

    What is about another stack than the chosen one is left out.
    """
    items.sort(key=_hurts)
    chosen = str(config.getoption("--stack"))
    elsewhere = [item for item in items if not _is_about(item, chosen)]
    config.hook.pytest_deselected(items=elsewhere)
    items[:] = [item for item in items if item not in elsewhere]


def _is_about(item: pytest.Item, stack: str) -> bool:
    marks = {mark.name for mark in item.iter_markers()}
    if stack == "cluster":
        return "cluster" in marks
    if "any_stack" in marks or not _on_stack(item):
        return True
    return stack == "local" and "cluster" not in marks


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers; keep the way to the terminal, which a test's output does not go."""
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    config.stash[_TERMINAL] = os.dup(sys.__stderr__.fileno())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End a process whose test outlives its time limit, and say where it stood.

    The limit itself (pytest-timeout) interrupts Python once. A call into a library that never comes
    back, or a clean-up that waits for what hung, would hold up all tests for ever.
    """
    limit_s = pytest_timeout._get_item_settings(item).timeout
    if limit_s:
        _end_after(item, limit_s + _CLEAN_UP_S)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(trylast=True)
def pytest_exception_interact(node: pytest.Item | pytest.Collector) -> None:
    """What has failed has its clean-up before it; pytest has called the other end off by now."""
    if isinstance(node, pytest.Item) and not node.config.getoption("usepdb"):
        _end_after(node, _CLEAN_UP_S)


def _end_after(item: pytest.Item, seconds: float) -> None:
    terminal = item.config.stash[_TERMINAL]
    faulthandler.dump_traceback_later(seconds, exit=True, file=terminal)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What failed once more, below all logs and tables: who reads a CI run sees its end first."""
    for report in terminalreporter.getreports("failed") + terminalreporter.getreports("error"):
        terminalreporter.section(report.nodeid, sep="-")
        crash = getattr(report.longrepr, "reprcrash", None)
        terminalreporter.write_line(crash.message if crash else str(report.longrepr)[-2_000:])


def _on_stack(item: pytest.Item) -> bool:
    return bool({"integration", "e2e"} & {mark.name for mark in item.iter_markers()})


def _hurts(item: pytest.Item) -> bool:
    return item.get_closest_marker("chaos") is not None


@pytest.fixture(autouse=True)
def _whole(request: pytest.FixtureRequest) -> None:
    """Bring back what an earlier test took down and what has not come back by itself."""
    if _hurts(request.node) and "stack" in request.fixturenames:
        stack = request.getfixturevalue("stack")
        if isinstance(stack, Stack):
            brought_up(stack)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[RunningStack]:
    """The running stack: `.service_url`, `.control_plane_url`, `.kill(...)` …"""
    home = Path(os.environ.get("DDS_TEST_HOME") or CHECKOUT / ".dds-test")
    chosen = str(request.config.getoption("--stack"))
    if chosen == "containers":
        with ContainerStack(home) as containers:
            yield containers
    elif chosen == "cluster":
        with ClusterStack(home) as cluster:
            yield cluster
    elif chosen == "local":
        yield from _local_stack(home)
    else:
        yield RemoteStack(chosen)


def _local_stack(home: Path) -> Iterator[Stack]:
    local = Stack(home, console=Console(sys.__stderr__))
    brought_up(local)
    try:
        yield local
    finally:
        if not os.environ.get("DDS_KEEP_STACK"):
            local.down()
