"""Custom transformations are waited for a bounded time, and cut off where they keep failing."""

from collections import Counter
from collections.abc import Iterator
from threading import Event
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from events import trades

from functions.operators.breaker import FAILURES, FIRST_PAUSE_S
from functions.operators.sequence import InstrumentSequences, with_sequences
from functions.runtime.custom_calls import CustomCalls, CutOff
from marketdata.custom import Custom, CustomFailed, registry
from marketdata.plans import View, ViewSpec, view_of
from marketdata.transformations import Transformation

LONG_S = 600.0
"""Nothing that comes back at all is waited for so long."""


class Desk:
    """A transformation that does as the test says."""

    name = "desk"
    description = "Does as told."
    columns: ClassVar[dict[str, str]] = {}
    max_rows = 100

    def __init__(self) -> None:
        self.fails = self.hangs = False
        self.goes_on = Event()
        self.calls = 0

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.calls += 1
        if self.hangs:
            self.goes_on.wait()
        if self.fails:
            raise ArithmeticError("beyond me")
        return batch.select(["instrument", "epoch", "sequence"])


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    desk = Desk()
    point: Any = SimpleNamespace(name="desk", value="desk", load=lambda: lambda: desk)
    loaded = registry.load([point])
    monkeypatch.setattr(registry, "installed", lambda: loaded)
    yield desk
    desk.goes_on.set()


class Reporter:
    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.errors: list[str] = []

    def error(self, text: str) -> None:
        self.errors.append(text)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def views() -> tuple[View, View]:
    custom = Custom("desk", {}, 100)
    one, other = (
        view_of(ViewSpec(filter=f"price > {n}", transformation=Transformation(custom=custom)))
        for n in range(2)
    )
    return one, other


def rows() -> pa.RecordBatch:
    batch = trades(["A", "B"])
    numbers = InstrumentSequences().assign(batch)
    return with_sequences(batch, "trade", numbers, epoch=1, ts_sequenced_ns=1)


def test_what_keeps_failing_is_cut_off_tried_again_and_taken_back(desk: Desk) -> None:
    reporter: Any = Reporter()
    clock = Clock()
    calls = CustomCalls(LONG_S, reporter, clock)
    view, neighbour = views()
    desk.fails = True
    for _ in range(FAILURES):
        with pytest.raises(CustomFailed, match="'desk' failed: ArithmeticError: beyond me") as told:
            calls(view, rows())
        assert told.value.code == "custom_failed"
    asked = desk.calls
    with pytest.raises(CutOff, match=r"tried again later.*beyond me") as refused:
        calls(view, rows())
    assert refused.value.code == "custom_cut_off"
    assert desk.calls == asked
    desk.fails = False
    assert calls(neighbour, rows()).rows is None
    with pytest.raises(CutOff):
        calls(view, rows())
    clock.now += FIRST_PAUSE_S
    assert calls(view, rows()).rows is None
    clock.now = 0.0
    assert calls(view, rows()).rows is None
    assert reporter.counters == {"custom_failures": FAILURES, "custom_cut_off": 2}
    (error,) = reporter.errors
    assert error.startswith(f"view {view.id} is cut off")


def test_a_call_that_does_not_come_back_holds_up_nobody_else(desk: Desk) -> None:
    reporter: Any = Reporter()
    clock = Clock()
    view, neighbour = views()
    hasty = CustomCalls(0.0, reporter, clock)
    desk.hangs = True
    with pytest.raises(CustomFailed, match="took longer than 0 s for 2 events"):
        hasty(view, rows())
    hasty._seconds = LONG_S
    clock.now += 1e9
    # However long the pause is over: while it has not come back it is not asked again.
    with pytest.raises(CutOff, match="its last call has not come back"):
        hasty(view, rows())
    desk.hangs = False
    assert hasty(neighbour, rows()).rows is None
    desk.goes_on.set()
    late = hasty._guarded[view.id].late
    assert late is not None
    late.result(LONG_S)
    assert hasty(view, rows()).rows is None
    assert reporter.counters == {
        "custom_failures": 1,
        "custom_timeouts": 1,
        "custom_cut_off": 1,
    }


def test_views_that_are_gone_are_forgotten(desk: Desk) -> None:
    reporter: Any = Reporter()
    calls = CustomCalls(LONG_S, reporter, Clock())
    view, neighbour = views()
    desk.fails = True
    for _ in range(FAILURES):
        for each in (view, neighbour):
            with pytest.raises(CustomFailed):
                calls(each, rows())
    calls.keep({neighbour.id})
    desk.fails = False
    assert calls(view, rows()).rows is None
    with pytest.raises(CutOff):
        calls(neighbour, rows())
