"""Following the compacted topic of plans.

A thread reads `control/plans`; `latest` is the newest plan it has seen. `wait_until_current`
returns once everything that was on the topic when the follower started has been read, so a
function never routes by an older plan than the one its predecessor used. A plan that cannot be
taken yet waits, and is tried again; meanwhile no plan counts as the newest.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from logging import Logger

import msgspec
import pulsar

from functions.runtime.following import POLL_TIMEOUT_MS, follow
from functions.runtime.outputs import NotYetReadable, newest_message
from marketdata.plans import EMPTY_PLAN, Plan, decode_plan

CURRENT_FOR_S = 3.0
"""How long the newest plan counts as known after the broker was asked for a newer one."""


class PlanFollower:
    """Keeps the newest plan at hand.

    Args:
        on_change: takes a plan; called from the follower's thread, or that of `catch_up`. False
            says that something the plan needs is not there yet.
    """

    def __init__(
        self, client: pulsar.Client, topic: str, log: Logger, on_change: Callable[[Plan], bool]
    ) -> None:
        self.latest = EMPTY_PLAN
        self.rejected = 0
        self._client = client
        self._topic = topic
        self._log = log
        self._on_change = on_change
        self._current = threading.Event()
        self._asked_at = 0.0
        self._waits_for: int | None = None
        self._taking = threading.Lock()
        threading.Thread(
            target=follow, args=(client, topic, log, self._read), name="plan-follower", daemon=True
        ).start()

    def wait_until_current(self, timeout_s: float) -> bool:
        """Wait for the first complete read of the topic; False when it did not happen in time."""
        return self._current.wait(timeout_s)

    def is_current(self) -> bool:
        """Whether `latest` was the newest plan of the topic a moment ago.

        An instance that stood still, or that the broker cannot be reached by, may lack a plan that
        others run by now.
        """
        return self._waits_for is None and time.monotonic() - self._asked_at <= CURRENT_FOR_S

    @property
    def waits(self) -> bool:
        """Whether the newest plan cannot be taken yet."""
        return self._waits_for is not None

    def catch_up(self) -> None:
        """Take the newest plan of the topic now, on the caller's thread.

        Who takes a partition over must not route by an older plan than its last owner did.

        Raises:
            pulsar.PulsarException, NotYetReadable: the broker is away, or the plan waits; try
                again.
        """
        message = newest_message(self._client, self._topic)
        plan = None if message is None else self._newer(None, message)
        # One that waits is tried again by the follower, once a second: it may read a lot.
        waits = plan is not None and plan.number == self._waits_for
        if waits or not self._take(plan):
            raise NotYetReadable("the newest plan waits for what it needs")

    def _read(self, reader: pulsar.Reader) -> None:
        newest: Plan | None = None
        while True:
            # The time before the question: a plan may be published while it is answered.
            asked_at = time.monotonic()
            if reader.has_message_available():
                newest = self._newer(newest, reader.read_next(POLL_TIMEOUT_MS * 10))
                continue
            if self._take(newest):
                self._asked_at = asked_at
                self._current.set()
            with contextlib.suppress(pulsar.Timeout):
                newest = self._newer(newest, reader.read_next(POLL_TIMEOUT_MS))
                self._take(newest)

    def _newer(self, newest: Plan | None, message: pulsar.Message) -> Plan | None:
        try:
            plan = decode_plan(message.data())
        except msgspec.MsgspecError as error:
            self.rejected += 1
            self._log.error("plans: message %s is no plan: %s", message.message_id(), error)
            return newest
        return plan if newest is None or plan.number > newest.number else newest

    def _take(self, plan: Plan | None) -> bool:
        with self._taking:
            if plan is not None and plan.number > self.latest.number:
                taken = self._on_change(plan)
                self._waits_for = None if taken else plan.number
                if taken:
                    self.latest = plan
            return self._waits_for is None
