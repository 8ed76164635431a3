"""How each fault is done and healed. Only processes of the run's own stack are touched, by pid.

An injector returns when the fault is healed, with the time from which on events must flow again;
what it cannot do yet, because another fault is in its way, it tries again.
"""

import signal
import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Final

from scripts.devstack import http
from scripts.devstack.processes import Identity, wait_until
from scripts.devstack.stack import Stack
from scripts.faults.kinds import LANES, FaultKind
from scripts.faults.publishers import PublisherProcess
from scripts.faults.schedule import Fault
from scripts.faults.subscribers import Subscribers
from scripts.faults.topology import OwnTopology

INSTANCE_TIMEOUT_S: Final = 300.0
BROKER_STOP_TIMEOUT_S: Final = 60.0
DOWN_S: Final = 2.0
"""How long a killed server stays down before it is started again, as by a supervisor."""


class NotInjected(Exception):
    """A fault could not be done: what it is done to was not there in time."""


class Injectors:
    """Does faults.

    Args:
        home: of the stack.
        topology: of the stack, for rollouts.
        subscribers: consumers, and subscriptions that come and go.
        publishers: those that may be killed.
        ending: set when the run is over: what stands still is let go at once.
    """

    def __init__(
        self,
        stack: Stack,
        topology: OwnTopology,
        subscribers: Subscribers,
        publishers: Sequence[PublisherProcess],
        ending: Event,
    ) -> None:
        # A stack object is not thread safe; each lane reads the state for itself.
        self._stacks = {lane: Stack(stack.home, console=stack.console) for lane in LANES}
        self._topology = topology
        self._subscribers = subscribers
        self._publishers = publishers
        self._ending = ending
        self._by_kind: dict[FaultKind, Callable[[Fault, Stack], None]] = {
            FaultKind.KILL_SEQUENCER: self._kill_instances,
            FaultKind.KILL_DISTRIBUTOR: self._kill_instances,
            FaultKind.PAUSE_SEQUENCER: self._pause_instances,
            FaultKind.PAUSE_DISTRIBUTOR: self._pause_instances,
            FaultKind.RESTART_FUNCTION: self._restart_function,
            FaultKind.REDEPLOY: self._redeploy,
            FaultKind.SCALE: self._scale,
            FaultKind.PAUSE_BROKER: self._pause_broker,
            FaultKind.RESTART_BROKER: self._restart_broker,
            FaultKind.KILL_BROKER: self._kill_server,
            FaultKind.KILL_PUBLISHER: self._kill_publisher,
            FaultKind.SLOW_CONSUMER: self._slow_consumer,
            FaultKind.CHANGE_PLAN: self._change_plan,
            FaultKind.KILL_POSTGRESQL: self._kill_server,
            FaultKind.KILL_CONTROL_PLANE: self._kill_server,
        }

    def inject(self, fault: Fault) -> int:
        """Do it and heal it; the time it was healed, in nanoseconds since the epoch.

        Raises:
            NotInjected: what it is done to was not there.
            StackError: a server does not start again.
            DeployFailed: a rollout does not succeed.
        """
        self._by_kind[fault.kind](fault, self._stacks[fault.lane])
        return time.time_ns()

    def _instances(self, fault: Fault, stack: Stack) -> list[Identity]:
        function = str(fault.kind).partition("-")[2]
        found: list[Identity] = []

        def there() -> bool:
            identities = map(Identity.of, stack.function_pids(function))
            found[:] = [identity for identity in identities if identity is not None]
            return bool(found)

        if not wait_until(there, INSTANCE_TIMEOUT_S, interval_s=0.5):
            raise NotInjected(f"no instance of {function} runs")
        return found if fault.scope == "all" else [found[fault.pick % len(found)]]

    def _kill_instances(self, fault: Fault, stack: Stack) -> None:
        for instance in self._instances(fault, stack):
            instance.signal(signal.SIGKILL)

    def _pause_instances(self, fault: Fault, stack: Stack) -> None:
        self._pause(self._instances(fault, stack), fault.pause_s)

    def _pause(self, processes: Sequence[Identity], seconds: float) -> None:
        try:
            for process in processes:
                process.signal(signal.SIGSTOP)
            self._ending.wait(seconds)
        finally:
            for process in processes:
                process.signal(signal.SIGCONT)

    def _restart_function(self, fault: Fault, stack: Stack) -> None:
        path = f"/admin/v3/functions/marketdata/functions/{fault.function}/restart"

        def restarted() -> bool:
            return http.post(f"{stack.admin_url}{path}") is not None

        # A broker that is just coming up refuses.
        if not wait_until(restarted, INSTANCE_TIMEOUT_S, interval_s=1.0):
            raise NotInjected(f"the broker does not restart {fault.function}")

    def _redeploy(self, fault: Fault, _: Stack) -> None:
        self._topology.configure(fault.function, max_rows=4096 + fault.pick % 4097)

    def _scale(self, fault: Fault, _: Stack) -> None:
        parallelism = fault.parallelism
        if parallelism == self._topology.parallelism(fault.function):
            parallelism = parallelism % 4 + 1
        self._topology.scale(fault.function, parallelism)

    def _pause_broker(self, fault: Fault, stack: Stack) -> None:
        pid = stack.pid("pulsar")
        broker = Identity.of(pid) if pid else None
        if broker is None:
            raise NotInjected("no broker runs")
        self._pause([broker], fault.pause_s)

    def _restart_broker(self, _: Fault, stack: Stack) -> None:
        broker = Identity.of(stack.kill("pulsar", signal.SIGTERM))
        if broker is not None and not broker.wait(BROKER_STOP_TIMEOUT_S):
            # Its supervisor would not wait any longer either.
            stack.kill("pulsar")
        stack.start("pulsar")

    def _kill_server(self, fault: Fault, stack: Stack) -> None:
        component = {
            FaultKind.KILL_BROKER: "pulsar",
            FaultKind.KILL_POSTGRESQL: "postgresql",
            FaultKind.KILL_CONTROL_PLANE: "control_plane",
        }[fault.kind]
        stack.kill(component)
        try:
            self._ending.wait(DOWN_S)
        finally:
            stack.start(component)

    def _kill_publisher(self, fault: Fault, _: Stack) -> None:
        self._publishers[fault.pick % len(self._publishers)].kill()

    def _slow_consumer(self, fault: Fault, _: Stack) -> None:
        recorder = self._subscribers.slow(fault.pick)
        recorder.pause()
        try:
            self._ending.wait(fault.pause_s)
        finally:
            recorder.go_on()

    def _change_plan(self, fault: Fault, _: Stack) -> None:
        self._subscribers.change(fault.pick)
