"""Custom transformations are called here: bounded in time, and cut off where they keep failing.

Each view has a breaker of its own, for all partitions of the instance: what one view's events do to
a transformation is not another view's business. What is not called for is refused with the reason,
and so becomes dead letters; nothing waits for a transformation that is cut off.
"""

import time
from collections.abc import Callable, Collection
from typing import Final

import pyarrow as pa

from functions.operators.breaker import Breaker
from functions.runtime.bounded_calls import BoundedCalls, Call
from functions.runtime.status import StatusReporter
from marketdata.custom import Answer, CustomFailed, call
from marketdata.plans import View

MOST_REASON_CHARACTERS: Final = 300


class CutOff(CustomFailed):
    """A custom transformation is not tried now, whatever the events are."""

    code = "custom_cut_off"


class _Guarded:
    """What is known of the calls for one view."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.late: Call[Answer] | None = None
        self.reason = ""


class CustomCalls:
    """Calls of an instance's custom transformations; used by the worker's thread only.

    Args:
        seconds: how long a call is waited for. reporter: its counters `custom_failures`,
        `custom_timeouts` and `custom_cut_off` rise, and it
            is told of transformations that are cut off.
        now_s: a clock that only rises.
    """

    def __init__(
        self,
        seconds: float,
        reporter: StatusReporter,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._reporter = reporter
        self._counters = reporter.counters
        self._now_s = now_s
        self._calls = BoundedCalls()
        self._guarded: dict[str, _Guarded] = {}

    def __call__(self, view: View, rows: pa.RecordBatch) -> Answer:
        """What the custom transformation of a view gives for its rows.

        Raises:
            CutOff: it is not asked now.
            CustomFailed: it failed, gave what it may not, or took too long.
        """
        guarded = self._guarded.setdefault(view.id, _Guarded())
        custom = view.transformation.custom
        assert custom, "only views with a custom transformation come here"  # noqa: S101
        self._check(guarded, custom.name)
        under_way = self._calls.start(lambda: call(custom, rows))
        try:
            answer = under_way.result(self._seconds)
        except TimeoutError:
            self._calls.leave_behind()
            guarded.late = under_way
            self._counters["custom_timeouts"] += 1
            error = CustomFailed(
                f"custom transformation {custom.name!r} took longer than {self._seconds:g} s for"
                f" {rows.num_rows} events"
            )
            self._failed(view.id, guarded, error, at_once=True)
            raise error from None
        except CustomFailed as error:
            self._failed(view.id, guarded, error)
            raise
        guarded.breaker.succeeded()
        return answer

    def keep(self, view_ids: Collection[str]) -> None:
        """Forget the views that are gone."""
        self._guarded = {k: v for k, v in self._guarded.items() if k in view_ids}

    def _check(self, guarded: _Guarded, name: str) -> None:
        late = guarded.late is not None and not guarded.late.is_over
        if not late:
            guarded.late = None
        if late or not guarded.breaker.allows(self._now_s()):
            self._counters["custom_cut_off"] += 1
            because = "its last call has not come back" if late else "it is tried again later"
            raise CutOff(
                f"custom transformation {name!r} is cut off and was not asked, {because};"
                f" it failed last by: {guarded.reason}"
            )

    def _failed(
        self, view_id: str, guarded: _Guarded, error: CustomFailed, *, at_once: bool = False
    ) -> None:
        self._counters["custom_failures"] += 1
        guarded.reason = str(error)[:MOST_REASON_CHARACTERS]
        guarded.breaker.failed(self._now_s(), at_once=at_once)
        if guarded.breaker.is_open:
            self._reporter.error(f"view {view_id} is cut off for a while: {guarded.reason}")
