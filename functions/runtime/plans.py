"""Following the compacted topic of plans.

A thread reads `control/plans`; `latest` is the newest plan it has seen. `wait_until_current`
returns once everything that was on the topic when the follower started has been read, so a
function never routes by an older plan than the one its predecessor used.
"""

import threading
from collections.abc import Callable
from logging import Logger

import msgspec
import pulsar

from marketdata.plans import EMPTY_PLAN, Plan, decode_plan

POLL_TIMEOUT_MS = 1_000
RETRY_S = 1.0


class PlanFollower:
    """Keeps the newest plan at hand; `on_change` is called from the follower's thread."""

    def __init__(
        self, client: pulsar.Client, topic: str, log: Logger, on_change: Callable[[Plan], None]
    ) -> None:
        self.latest = EMPTY_PLAN
        self.rejected = 0
        self._client = client
        self._topic = topic
        self._log = log
        self._on_change = on_change
        self._current = threading.Event()
        threading.Thread(target=self._follow, name="plan-follower", daemon=True).start()

    def wait_until_current(self, timeout_s: float) -> bool:
        """Wait for the first complete read of the topic; False when it did not happen in time."""
        return self._current.wait(timeout_s)

    def _follow(self) -> None:
        while True:
            try:
                reader = self._client.create_reader(
                    self._topic, pulsar.MessageId.earliest, is_read_compacted=True
                )
            except pulsar.PulsarException as error:
                self._log.warning("plans: cannot read %s (%s); trying again", self._topic, error)
                threading.Event().wait(RETRY_S)
                continue
            try:
                self._read(reader)
            except pulsar.PulsarException as error:
                self._log.warning("plans: reading %s failed (%s); reopening", self._topic, error)
                threading.Event().wait(RETRY_S)
            finally:
                reader.close()

    def _read(self, reader: pulsar.Reader) -> None:
        newest: Plan | None = None
        while reader.has_message_available():
            newest = self._newer(newest, reader.read_next(POLL_TIMEOUT_MS * 10))
        self._take(newest)
        self._current.set()
        while True:
            try:
                message = reader.read_next(POLL_TIMEOUT_MS)
            except pulsar.Timeout:
                continue
            self._take(self._newer(None, message))

    def _newer(self, newest: Plan | None, message: pulsar.Message) -> Plan | None:
        try:
            plan = decode_plan(message.data())
        except msgspec.MsgspecError as error:
            self.rejected += 1
            self._log.error("plans: message %s is no plan: %s", message.message_id(), error)
            return newest
        return plan if newest is None or plan.number > newest.number else newest

    def _take(self, plan: Plan | None) -> None:
        if plan is not None and plan.number > self.latest.number:
            self.latest = plan
            self._on_change(plan)
