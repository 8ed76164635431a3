"""When inputs are applied: at once in an idle partition, together with others in a busy one."""

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest

from functions.runtime import function as runtime
from functions.runtime.function import GATHER_S, MAX_STEPS_UNDER_WAY


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(runtime, "time", clock)
    return clock


def partition() -> Any:
    return runtime._Partition(cast("Any", None), cast("Any", None))


def step(of: Any) -> SimpleNamespace:
    """An application under way: its input waits for an output."""
    item = SimpleNamespace(waiting={"output": 1})
    of.steps.append([item])
    return item


def test_an_idle_partition_waits_for_nothing(clock: Clock) -> None:  # noqa: ARG001
    idle = partition()
    assert idle.due_at() == math.inf
    idle.add(["input"])
    assert idle.may_step()


def test_a_busy_one_gathers_for_a_while_from_the_first_input_on(clock: Clock) -> None:
    busy = partition()
    step(busy)
    assert busy.due_at() == math.inf, "nothing waits"
    busy.add(["input"])
    due_at = busy.due_at()
    assert due_at == clock.now_s + GATHER_S
    clock.now_s += GATHER_S / 2
    busy.add(["another"])
    busy.add([])
    assert busy.due_at() == due_at
    assert not busy.may_step()
    clock.now_s = due_at
    assert busy.may_step()
    assert busy.backlog == ["input", "another"]


def test_what_is_confirmed_meanwhile_ends_the_wait(clock: Clock) -> None:  # noqa: ARG001
    busy = partition()
    item = step(busy)
    busy.add(["input"])
    assert not busy.may_step()
    item.waiting.clear()
    assert busy.may_step()


def test_no_more_than_so_many_are_under_way(clock: Clock) -> None:
    busy = partition()
    for _ in range(MAX_STEPS_UNDER_WAY):
        step(busy)
    busy.add(["input"])
    clock.now_s += 10 * GATHER_S
    assert not busy.may_step()
    assert busy.due_at() == math.inf, "only a confirmation helps"
