"""Tokens, certificates and signing keys change while events flow: nothing is lost by it.

Runs with `--stack=cluster` only, which needs a Docker engine and a quarter of an hour:

    python3 scripts/dev.py test --stack=cluster tests/e2e/test_rotation.py -rP
"""

import ssl
import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import pytest

from scripts.devstack.ports import HOST
from scripts.faults.flow import Flow
from tests.e2e.scenario import Scenario, await_that
from tests.e2e.test_cluster import PARTITIONS, flowing, judged, never, row
from tests.stacks.cluster import ClusterStack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.cluster,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]

TOKEN_S = 300
"""Long enough to log in with it, also on a busy machine."""

CUT_OFF_S = 30.0
"""A broker looks every 15 s whose token has expired, and waits as long for a new one."""

NOTICED_S = 600.0
"""Twice the time in which a broker looks for another certificate."""

SHORT_LIVED = f"""
import datetime, os
from scripts import container_credentials as credentials
credentials.MAX_LIFETIME = datetime.timedelta(seconds={TOKEN_S})
credentials.renew(public_host=os.environ["DDS_PUBLIC_HOST"])
"""
RENEW = ("python3", "-m", "scripts.container_credentials", "renew")
KEYS = ("python3", "-m", "control_plane.security")


def test_logins_outlive_tokens_and_certificates(stack: ClusterStack) -> None:
    """Whoever logged in with a token that expires goes on; new certificates are shown and taken."""
    credentials(stack, "python3", "-c", SHORT_LIVED)
    expire_s = time.monotonic() + TOKEN_S
    stack.authenticate()
    log_in_again(stack)
    with Changes(stack) as changes:
        shown = certificates(stack)
        credentials(stack, "sh", "-c", "rm /credentials/*/server.pem")
        credentials(stack, *RENEW)
        stack.authenticate()
        time.sleep(max(0.0, expire_s + CUT_OFF_S - time.monotonic()))
        changes.done("tokens have expired")

        await_that(lambda: shown.isdisjoint(certificates(stack)), NOTICED_S, "other certificates")
        log_in_again(stack)
        changes.done("certificates of the brokers")
        for service in ("postgresql", "control-plane", "control-plane-2", "proxy"):
            stack.replace(service)
        changes.done("certificates of the others")


def test_events_flow_when_another_key_signs(stack: ClusterStack) -> None:
    """As docs/operations.md has it: brokers know one key, the one of their start."""
    with Changes(stack) as changes:
        known = {line.split()[0] for line in credentials(stack, *KEYS, "list").splitlines()}
        credentials(stack, *KEYS, "new-key")
        credentials(stack, *RENEW)
        stack.authenticate()
        stack.run("restart", "broker", "broker-2", "worker", "worker-2")
        for service in ("broker", "broker-2", "worker", "worker-2"):
            stack.start(service)
        changes.done("new key")

        for key in known:
            credentials(stack, "sh", "-c", f"rm /credentials/signing-keys/*-{key}.pem")
        log_in_again(stack)
        changes.done("without the old key")


class Changes:
    """Events flow from the beginning to the end of this context, which judges them and tells."""

    def __init__(self, stack: ClusterStack) -> None:
        self._flow = Flow(PARTITIONS)
        self._scenario = Scenario(stack, flow=self._flow)
        self._outages: dict[str, float] = {}

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            scenario = cleanup.enter_context(self._scenario)
            self._load = flowing(scenario, self._flow)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._cleanup:
            if error is not None:
                return
            report = judged(self._scenario, self._load)
            for what, outage_s in self._outages.items():
                sys.stdout.write(f"| {what} | {outage_s:.1f} |\n")
            sys.stdout.write(f"{row('all', report, (max(self._outages.values()),))}\n")
            assert report.ok, report.text()

    def done(self, what: str) -> None:
        """Events that were published since flow; how long none had arrived is noted."""
        self._flow.await_after(time.time_ns(), never)
        self._outages[what], self._flow.longest_outage_s = self._flow.longest_outage_s, 0.0


def credentials(stack: ClusterStack, *command: str) -> str:
    """Output of a command in the container that makes them."""
    return stack.run("exec", "-T", "credentials", *command)


def log_in_again(stack: ClusterStack) -> None:
    """Kill every instance of every function: those that follow log in with what is there now."""
    for function in ("sequencer", "distributor"):
        for pid in stack.function_pids(function):
            stack.kill_instance(pid)


def certificates(stack: ClusterStack) -> set[str]:
    """What the brokers show."""
    ports = (stack.ports["PULSAR"], stack.ports["PULSAR_2"])
    return {ssl.get_server_certificate((HOST, port)) for port in ports}
