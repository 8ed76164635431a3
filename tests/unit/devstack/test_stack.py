"""How a stack starts and ends a component, shown with a small process in place of a server."""

import os
import signal
import sys
from pathlib import Path

import pytest

from scripts.devstack.component import Component
from scripts.devstack.console import Console
from scripts.devstack.errors import ComponentError, StartAgainError, UsageError
from scripts.devstack.processes import Identity, leftovers, spawn
from scripts.devstack.stack import Stack


class Sleeper(Component):
    """Serves as long as its process lives; its first `bad_starts` starts go wrong."""

    name = "postgresql"
    port_names = ()
    bad_starts = 0
    starts = 0

    def urls(self) -> dict[str, str]:
        return {"url": "sleeper://"}

    def prepare(self, console: Console) -> None:
        pass

    def launch(self) -> Identity:
        self.starts += 1
        command = [sys.executable, "-c", "import time; time.sleep(60)"]
        home = self.place.home
        return spawn(command, home=home, log=self.log, environment=dict(os.environ), cwd=home)

    def healthy(self) -> bool:
        return True

    def check_start(self) -> None:
        if self.starts <= self.bad_starts:
            raise StartAgainError(self.name, "went wrong")


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Stack, Sleeper]:
    for name in ("DDS_PULSAR_SERVICE_URL", "DDS_PULSAR_ADMIN_URL", "DDS_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    stack = Stack(tmp_path, console=Console(quiet=True))
    component = Sleeper(stack._place)
    monkeypatch.setattr(stack, "_component", lambda _name: component)
    return stack, component


def test_what_serves_is_left_alone(sleeper: tuple[Stack, Sleeper]) -> None:
    stack, component = sleeper
    assert stack._ensure(component)
    pid = stack.pid("postgresql")
    assert not stack._ensure(component)
    assert stack.pid("postgresql") == pid
    assert stack.down()
    assert stack.pid("postgresql") is None


def test_a_start_that_failed_by_chance_is_repeated(sleeper: tuple[Stack, Sleeper]) -> None:
    stack, component = sleeper
    component.bad_starts = 2
    assert stack._ensure(component)
    assert component.starts == 3
    assert len(leftovers(stack.home)) == 1
    stack.down()


def test_a_start_that_always_fails_leaves_no_process(sleeper: tuple[Stack, Sleeper]) -> None:
    stack, component = sleeper
    component.bad_starts = 99
    with pytest.raises(ComponentError, match="went wrong"):
        stack._ensure(component)
    assert leftovers(stack.home) == []


def test_a_killed_component_has_no_pid_and_cannot_be_killed_again(
    sleeper: tuple[Stack, Sleeper],
) -> None:
    stack, component = sleeper
    stack._ensure(component)
    pid = stack.kill("postgresql", signal.SIGKILL)
    assert pid > 0
    assert stack.pid("postgresql") is None
    with pytest.raises(ComponentError, match="not running"):
        stack.kill("postgresql")


def test_down_ends_what_an_interrupted_up_did_not_write_down(
    sleeper: tuple[Stack, Sleeper],
) -> None:
    stack, component = sleeper
    component.launch()
    assert stack.pid("postgresql") is None
    assert stack.down()
    assert leftovers(stack.home) == []


def test_reset_deletes_everything_but_the_lock(sleeper: tuple[Stack, Sleeper]) -> None:
    stack, component = sleeper
    stack._ensure(component)
    (stack.home / "postgresql").mkdir()
    stack.reset()
    assert [path.name for path in stack.home.iterdir()] == ["lock"]


def test_the_users_database_is_not_ours_to_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DDS_DATABASE_URL", "postgresql://me@db/x")
    stack = Stack(tmp_path, console=Console(quiet=True))
    assert stack.environment()["DDS_DATABASE_URL"] == "postgresql://me@db/x"
    with pytest.raises(UsageError, match="not the stack's own"):
        stack.kill("postgresql")
