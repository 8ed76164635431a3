"""A chaos run: parts of load and faults, each followed by silence and the checker.

The checker needs everything in memory, so a long run is judged in parts of some minutes. Between
two parts nothing is restarted and nobody unsubscribes; numbers go on, and what was complete must
not come again.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import Final

from scripts.devstack.stack import Stack
from scripts.faults.flow import Flow, NotRecovered
from scripts.faults.injectors import Injectors
from scripts.faults.kinds import LANES, FaultKind
from scripts.faults.publishers import PublisherProcess
from scripts.faults.publishing import Habit, Orders
from scripts.faults.schedule import Fault, plan_faults
from scripts.faults.subscribers import Subscribers
from scripts.faults.topology import OwnTopology
from scripts.verification.draining import drain
from scripts.verification.recording import History
from scripts.verification.report import Report

HABITS: Final[tuple[Habit, ...]] = ("steady", "resume", "repeat")
"""One publisher of each; all but the first can be killed."""

DRAIN_TIMEOUT_S: Final = 300.0
STALL_S: Final = 90.0
CALM_S: Final = 5.0
"""How long nothing is published before the checker judges: heartbeats have their say, and what
should not come has time to."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is run.

    Attributes:
        seconds: of load and faults; what the checker takes comes on top.
        part_seconds: after how many of them the checker judges.
        rate: events a second of all publishers together.
    """

    seed: int
    seconds: float
    rate: int
    kinds: Collection[FaultKind] = tuple(FaultKind)
    part_seconds: float = 180.0
    instruments: int = 400


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that happened.

    Attributes:
        started_s: seconds of load before it.
        recovery_s: from its being healed until new events arrived in every partition; None when
            the load ended before.
    """

    fault: Fault
    started_s: float
    recovery_s: float | None


@dataclass(slots=True)
class Outcome:
    """What happened in a run.

    Attributes:
        parts: what the checker found in each part.
        uncertain: events whose publisher died before it learned whether they are stored.
        failures: what went wrong besides: faults not recovered from, components that stay down.
    """

    settings: Settings
    injected: list[Injected] = field(default_factory=list)
    parts: list[Report] = field(default_factory=list)
    uncertain: int = 0
    publisher_lives: int = 0
    longest_outage_s: float = 0.0
    load_s: float = 0.0
    checking_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the promise was kept."""
        return bool(self.parts) and not self.failures and all(part.ok for part in self.parts)


class Chaos:
    """One run on a stack that is up.

    Args:
        topology: that the stack runs, and that rollouts change.
        say: told what happens, a line at a time.
    """

    def __init__(
        self,
        stack: Stack,
        topology: OwnTopology,
        settings: Settings,
        say: Callable[[str], None],
    ) -> None:
        self._stack, self._topology, self._settings, self._say = stack, topology, settings, say
        self._run = f"chaos-{settings.seed}-{time.time_ns() // 1_000_000 % 10_000_000}"
        self._prefix = f"{self._run.upper()}-"
        self._partitions = topology.partitions()
        self._flow = Flow(self._partitions)
        self._lock = Lock()
        self._clock_s = 0.0
        self.outcome = Outcome(settings)

    def run(self) -> Outcome:
        """Load, faults, checker; part by part until the time is over or something is wrong."""
        settings = self._settings
        faults = plan_faults(settings.seed, settings.seconds, settings.kinds)
        try:
            self._parts(faults)
        except Exception as error:  # noqa: BLE001 - whatever ends a run early is its outcome
            self.outcome.failures.append(f"{type(error).__name__}: {error}")
        return self.outcome

    def _parts(self, faults: list[Fault]) -> None:
        settings = self._settings
        urls = (self._stack.service_url, self._stack.control_plane_url)
        with Subscribers(
            urls,
            run=self._run,
            prefix=self._prefix,
            instruments=settings.instruments,
            flow=self._flow,
            log=self._stack.home / "logs" / "chaos-consumers.log",
        ) as subscribers:
            number = 0
            while self._clock_s < settings.seconds and not self.outcome.failures:
                until_s = min(self._clock_s + settings.part_seconds, settings.seconds)
                due = [each for each in faults if self._clock_s <= each.at_s < until_s]
                report = self._part(subscribers, number, due, until_s)
                self.outcome.parts.append(report)
                self._say(f"part {number + 1} judged\n{report.text()}")
                if not report.ok:
                    break
                number += 1

    def _part(
        self, subscribers: Subscribers, number: int, faults: list[Fault], until_s: float
    ) -> Report:
        late = sum(fault.kind is FaultKind.CHANGE_PLAN for fault in faults)
        history = subscribers.begin(late)
        publishers = [self._publisher(history, habit, number) for habit in HABITS]
        ending = Event()
        try:
            injectors = Injectors(self._stack, self._topology, subscribers, publishers[1:], ending)
            self._hurt(injectors, faults, until_s, ending, history)
            started = time.monotonic()
            for publisher in publishers:
                publisher.stop()
        finally:
            ending.set()
            for publisher in publishers:
                publisher.close()
        self._say(f"{history.accepted_events:,} events accepted; waiting until they have arrived")
        subscribers.go_on()
        time.sleep(CALM_S)
        report = drain(
            history,
            timeout_s=DRAIN_TIMEOUT_S,
            stall_s=STALL_S,
            settle_s=2.0,
            from_first=True,
            required_after_ns=subscribers.required_after_ns,
        )
        subscribers.end()
        self._flow.rest()
        outcome = self.outcome
        outcome.uncertain += history.uncertain_events
        outcome.publisher_lives += sum(1 + publisher.kills for publisher in publishers)
        outcome.longest_outage_s = self._flow.longest_outage_s
        outcome.checking_s += time.monotonic() - started
        return report

    def _publisher(self, history: History, habit: Habit, number: int) -> PublisherProcess:
        name = f"{self._run}-{number}-{habit}"
        settings = self._settings
        orders = Orders(
            service_url=self._stack.service_url,
            name=name,
            habit=habit,
            source=name,
            prefix=self._prefix,
            instruments=settings.instruments,
            rate=settings.rate // len(HABITS),
            seed=settings.seed * 1000 + number * len(HABITS) + HABITS.index(habit),
            started_ns=time.time_ns(),
        )
        log = self._stack.home / "logs" / f"publisher-{habit}.log"
        return PublisherProcess(history, orders, partitions=self._partitions, log=log)

    def _hurt(
        self,
        injectors: Injectors,
        faults: list[Fault],
        until_s: float,
        ending: Event,
        history: History,
    ) -> None:
        """Have the faults happen, each lane in a thread of its own, and wait until all is well."""
        start = time.monotonic() - self._clock_s
        # Before the first fault everything works.
        self._flow.await_after(time.time_ns(), ending.is_set)
        threads = [
            Thread(
                target=self._lane,
                args=[injectors, [each for each in faults if each.lane == lane], start, ending],
                name=f"faults-{lane}",
            )
            for lane in LANES
        ]
        for thread in threads:
            thread.start()
        try:
            while time.monotonic() - start < until_s:
                if history.failure is not None:
                    raise history.failure
                if ending.wait(0.2):
                    break
        finally:
            ending.set()
            for thread in threads:
                thread.join()
        self._clock_s = until_s
        self.outcome.load_s += time.monotonic() - start
        try:
            # Whatever happened: what is still down now has its time to come back.
            self._flow.await_after(time.time_ns(), lambda: False)
        except NotRecovered as error:
            self.outcome.failures.append(f"at the end: {error}")

    def _lane(self, injectors: Injectors, faults: list[Fault], start: float, ending: Event) -> None:
        for fault in faults:
            if ending.wait(max(0.0, start + fault.at_s - time.monotonic())):
                return
            started_s = time.monotonic() - start
            self._say(f"{started_s:7.1f} s  {fault}")
            try:
                healed_ns = injectors.inject(fault)
                recovery_s = self._flow.await_after(healed_ns, ending.is_set)
            except Exception as error:  # noqa: BLE001 - the run ends and tells it
                with self._lock:
                    self.outcome.failures.append(f"{fault}: {type(error).__name__}: {error}")
                self._say(f"{time.monotonic() - start:7.1f} s  {self.outcome.failures[-1]}")
                ending.set()
                return
            with self._lock:
                known = None if ending.is_set() else recovery_s
                self.outcome.injected.append(Injected(fault, started_s, known))
