"""The consumers of a run: those that stay, and those that come and go while events flow."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx
import pulsar

from scripts.demonstration.subscriptions import DemoSubscription, tick_subscriptions
from scripts.faults.flow import Flow
from scripts.verification.closing import close
from scripts.verification.control_api import ApiError, ControlApi
from scripts.verification.expectations import ViewExpectation, everything, of_instruments
from scripts.verification.recorders import LogRecorder, ViewRecorder, open_client
from scripts.verification.recording import History

PATIENCE_S: Final = 300.0
MOST_LATE: Final = 4
"""Late subscriptions that are open at the same time."""

_INSTRUMENTS_OF_ONE: Final = 5

Result = TypeVar("Result")


class Subscribers:
    """Subscriptions and recorders of a run. A context manager that takes all away at its end.

    Args:
        stack_urls: Pulsar's service URL and the control plane's.
        run: names the consumer.
        prefix: of the names of instruments.
        instruments: how many there are.
        flow: told of everything that arrives in the view of everything.
        log: file for what the Pulsar client has to say.
    """

    def __init__(
        self,
        stack_urls: tuple[str, str],
        *,
        run: str,
        prefix: str,
        instruments: int,
        flow: Flow,
        log: Path,
    ) -> None:
        self._service_url, self._control_plane_url = stack_urls
        self._run, self._prefix, self._instruments = run, prefix, instruments
        self._flow = flow
        self._log_file = log
        self._staying = [
            DemoSubscription("", ViewExpectation("everything", everything)),
            *tick_subscriptions(),
        ]
        self._recorders: dict[str, ViewRecorder] = {}
        self._late: dict[str, str] = {}
        self._numbers: Iterator[int] = itertools.count(1)
        self._expected: list[DemoSubscription] = []
        self._lock = RLock()
        self.required_after_ns: dict[str, int] = {}
        self.history = History()

    def __enter__(self) -> Self:
        self._client: pulsar.Client = open_client(self._service_url, log=self._log_file)
        self._api = ControlApi(self._control_plane_url)
        self._consumer = self._api.register(self._run)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            for recorder in self._recorders.values():
                recorder.stop()
            if hasattr(self, "_log"):
                self._log.stop()
            if error is None:
                patiently(self._take_away)
        finally:
            close(self._client)
            self._api.http.close()

    def begin(self, late: int) -> History:
        """A history for the next part of the run, which goes on where the last one ended.

        Args:
            late: how many subscriptions may be made meanwhile.
        """
        self._expected = [self._late_one(next(self._numbers)) for _ in range(late)]
        views = [one.expectation for one in (*self._staying, *self._expected)]
        first = not self._recorders
        self.history = History(views, after=None if first else self.history)
        self.required_after_ns = {}
        if first:
            self._log = LogRecorder(self._client, self.history)
            made = [self._subscribe(one) for one in self._staying]
            self._api.await_applied(max(answer["plan"] for answer in made), timeout_s=PATIENCE_S)
        else:
            self._log.record_to(self.history)
            for recorder in self._recorders.values():
                recorder.record_to(self.history)
        return self.history

    def end(self) -> None:
        """Close what was subscribed late."""
        for name in list(self._late):
            self._close(name, leaving=False)

    def change(self, pick: int) -> str:
        """Subscribe, close or rename; what was done."""
        with self._lock:
            # `pick` decides; what cannot be done now gives way to what can.
            wanted = ("subscribe", "close", "rename")[pick % 3]
            if not self._late or (wanted == "subscribe" and len(self._late) < MOST_LATE):
                return self._join()
            name = sorted(self._late)[pick // 3 % len(self._late)]
            if wanted == "rename":
                return self._rename(name)
            self._close(name, leaving=True)
            return f"closed {name}"

    def slow(self, pick: int) -> ViewRecorder:
        """One of the staying recorders but for the one that `flow` watches."""
        names = [one.name for one in self._staying if one.name != "everything"]
        return self._recorders[names[pick % len(names)]]

    def go_on(self) -> None:
        """Have every recorder read again."""
        for recorder in self._recorders.values():
            recorder.go_on()

    def _late_one(self, number: int) -> DemoSubscription:
        chosen = [
            f"{self._prefix}SYN{(number * _INSTRUMENTS_OF_ONE + n) % self._instruments:05d}"
            for n in range(_INSTRUMENTS_OF_ONE)
        ]
        quoted = ", ".join(f"'{name}'" for name in chosen)
        # The last term lets all pass and makes the view one that nobody had before.
        filter_ = f"instrument IN ({quoted}) AND venue <> '{self._run.upper()}X{number}'"
        expectation = ViewExpectation(
            f"late-{number}", of_instruments(*chosen), joins_midway=True, from_first=True
        )
        return DemoSubscription(filter_, expectation)

    def _join(self) -> str:
        one = self._expected.pop(0)
        answer = self._subscribe(one)
        self._late[one.name] = answer["id"]
        patiently(lambda: self._api.await_applied(answer["plan"], timeout_s=PATIENCE_S))
        self.required_after_ns[one.name] = time.time_ns()
        return f"subscribed {one.name}"

    def _rename(self, name: str) -> str:
        path = f"/v1/subscriptions/{self._late[name]}"
        document = {"name": f"{name}-{time.time_ns():x}"}
        patiently(lambda: self._api.request("PATCH", path, document))
        return f"renamed {name}"

    def _close(self, name: str, *, leaving: bool) -> None:
        if leaving:
            view = self.history.views[name]
            self.history.views[name] = replace(view, leaves_midway=True)
            self.required_after_ns.pop(name, None)
        # A consumer goes before its topic does.
        self._recorders.pop(name).stop()
        path = f"/v1/subscriptions/{self._late.pop(name)}"
        patiently(lambda: self._delete(path))

    def _subscribe(self, one: DemoSubscription) -> dict[str, Any]:
        def subscribe() -> dict[str, Any]:
            # A name of its own for every try: one whose answer was lost may have been made.
            name = f"{one.name}-{time.time_ns():x}"
            return self._api.subscribe(self._consumer, name, **one.request())

        answer = patiently(subscribe)
        recorder = patiently(lambda: self._recorder(one.name, answer))
        self._recorders[one.name] = recorder
        return answer

    def _recorder(self, name: str, answer: dict[str, Any]) -> ViewRecorder:
        return ViewRecorder(
            self._client,
            self.history,
            name,
            answer["topic"],
            answer["subscription_name"],
            on_batch=self._flow.saw if name == "everything" else None,
        )

    def _delete(self, path: str) -> None:
        try:
            self._api.request("DELETE", path)
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise

    def _take_away(self) -> None:
        """Close every subscription of the consumer, those too whose answers were lost."""
        while True:
            page = self._api.request("GET", f"/v1/subscriptions?consumer={self._consumer}")
            if not page["items"]:
                break
            for one in page["items"]:
                self._delete(f"/v1/subscriptions/{one['id']}")
        self._delete(f"/v1/consumers/{self._consumer}")


def patiently(action: Callable[[], Result]) -> Result:
    """Do something that a fault elsewhere may hinder; try again for some minutes.

    Raises:
        ApiError: the request itself is at fault.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return action()
        except ApiError as error:
            if error.status < httpx.codes.INTERNAL_SERVER_ERROR or time.monotonic() > deadline:
                raise
        except (httpx.HTTPError, pulsar.PulsarException, TimeoutError):
            if time.monotonic() > deadline:
                raise
        time.sleep(1.0)
