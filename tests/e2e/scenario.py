"""A run on the real stack: synthetic load, several subscriptions, recorders, and the checker.

Nothing of it is shared between runs but the stack: source, instruments and publisher carry the
run's name. The views are the same in all runs, so later runs also prove that a view lives on.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import httpx
import pulsar

from marketdata.connection import Access
from scripts.demonstration.subscriptions import DemoSubscription, tick_subscriptions
from scripts.faults.flow import Flow
from scripts.faults.subscribers import patiently
from scripts.verification.closing import close
from scripts.verification.control_api import ControlApi
from scripts.verification.draining import drain
from scripts.verification.expectations import ViewExpectation, everything
from scripts.verification.load import Load
from scripts.verification.recorders import LogRecorder, ViewRecorder, open_client
from scripts.verification.recording import History
from scripts.verification.report import Report
from tests.stacks.interface import RunningStack

EVENTS_A_SECOND: Final = 50_000
LOAD_S: Final = 6.0
RECOVERY_S: Final = 180.0

_runs: Final[Iterator[int]] = itertools.count(int(time.time()) % 1_000_000)

EVERYTHING: Final = DemoSubscription("", ViewExpectation("everything", everything))


def subscriptions() -> list[DemoSubscription]:
    """Everything, by content, as JSON, and transformed."""
    return [EVERYTHING, *tick_subscriptions()]


class Scenario:
    """Subscriptions with consumers on them; a context manager that takes all away at its end.

    Args:
        stack: the running stack.
        joining: a subscription that `join` makes later.
        subscribed: other subscriptions than the usual ones.
        flow: told of everything that arrives in the view of everything.
    """

    def __init__(
        self,
        stack: RunningStack,
        joining: DemoSubscription | None = None,
        subscribed: list[DemoSubscription] | None = None,
        flow: Flow | None = None,
    ) -> None:
        self.stack = stack
        self._flow = flow
        self.run = f"e2e{next(_runs)}"
        self._subscriptions = subscribed if subscribed is not None else subscriptions()
        self._joining = joining
        later = [joining] if joining else []
        self.history = History(one.expectation for one in (*self._subscriptions, *later))
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            self.client: pulsar.Client = open_client(self.stack.service_url)
            cleanup.callback(close, self.client)
            cleanup.enter_context(LogRecorder(self.client, self.history))
            self.api = cleanup.enter_context(ControlApi(self.stack.control_plane_url))
            cleanup.callback(self.api.take_away)
            self.consumer = self.api.register(self.run)
            made = [
                self.api.subscribe(self.consumer, one.name, **one.request())
                for one in self._subscriptions
            ]
            self.api.await_applied(max(one["plan"] for one in made), timeout_s=RECOVERY_S)
            self._cleanup = cleanup.pop_all()
        for one, answer in zip(self._subscriptions, made, strict=True):
            self._record(one, answer)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def load(self, *, rate: int = EVENTS_A_SECOND, seconds: float = LOAD_S, part: str = "") -> Load:
        """Begin to publish; `part` tells the sources of several loads apart."""
        load = Load(
            self.stack.service_url,
            self.history,
            run=self.run,
            part=part,
            rate=rate,
            seconds=seconds,
        )
        self._cleanup.callback(load.close)
        return load

    def join(self) -> dict[str, Any]:
        """Make the late subscription and consume it; what the API says of it."""
        assert self._joining is not None
        answer = self.api.subscribe(self.consumer, self._joining.name, **self._joining.request())
        self._record(self._joining, answer)
        return answer

    def drain(self, *, timeout_s: float = RECOVERY_S, **options: Any) -> Report:
        """Wait for everything and judge it; instruments are new, so sequences start at 1."""
        return drain(
            self.history, timeout_s=timeout_s, stall_s=timeout_s, from_first=True, **options
        )

    def survive(self, fault: Callable[[], None]) -> Report:
        """Run the load, have `fault` happen in the middle of it, and judge what arrived."""
        load = self.load()
        await_that(
            lambda: self.history.log_events > load.events * 0.4, RECOVERY_S, "half of the load"
        )
        fault()
        load.wait(RECOVERY_S)
        report = self.drain()
        assert report.accepted == load.events
        return report

    def _record(self, subscription: DemoSubscription, answer: dict[str, Any]) -> None:
        def recorder() -> ViewRecorder:
            return ViewRecorder(
                self.client,
                self.history,
                subscription.name,
                answer["topic"],
                answer["subscription_name"],
                on_batch=self._flow.saw if self._flow and subscription is EVERYTHING else None,
                definition=_avro_definition(answer),
            )

        # A busy broker lets a client wait for longer than the client does.
        self._cleanup.enter_context(patiently(recorder))


def _avro_definition(answer: dict[str, Any]) -> str | None:
    schema = answer["schema"]["pulsar_schema"]
    return schema["definition"] if schema and schema["type"] == "AVRO" else None


def joining(name: str, filter_: str) -> DemoSubscription:
    """A new view of everything of a run that begins while events flow."""
    expectation = ViewExpectation(name, everything)
    return DemoSubscription(filter_, replace(expectation, joins_midway=True, from_first=True))


def await_that(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(0.05)


def readiness(stack: RunningStack) -> httpx.Response:
    """What `/readyz` says now."""
    trusted = Access.from_environment().tls()
    return httpx.get(f"{stack.control_plane_url}/readyz", timeout=60, verify=trusted)


def await_ready(stack: RunningStack) -> None:
    """Wait until the control plane serves in full, by itself."""

    def ready() -> bool:
        try:
            return readiness(stack).status_code == 200
        except httpx.HTTPError:
            return False

    await_that(ready, RECOVERY_S, "readiness")
