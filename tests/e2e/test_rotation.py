"""Tokens, certificates and signing keys change while events flow: nothing is lost by it.

Runs with `--stack=cluster` only, which needs a Docker engine and a quarter of an hour:

    python3 scripts/dev.py test --stack=cluster tests/e2e/test_rotation.py -rP

The figures that it prints stand in docs/operations.md.
"""

import ssl
import sys
import time

import pytest

from scripts.devstack.ports import HOST
from scripts.faults.flow import Flow
from tests.e2e.scenario import Scenario, await_that
from tests.e2e.test_cluster import PARTITIONS, RATE, judged, never, row
from tests.stacks.cluster import ClusterStack

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.cluster,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]

TOKEN_S = 90
CUT_OFF_S = 30.0
"""A broker looks every 15 s whose token has expired, and waits as long for a new one."""

NOTICED_S = 600.0
"""Twice the time in which a broker looks for another certificate."""

LONGEST_S = 2000.0

SHORT_LIVED = f"""
import datetime, os
from scripts import container_credentials as credentials
credentials.MAX_LIFETIME = datetime.timedelta(seconds={TOKEN_S})
credentials.renew(public_host=os.environ["DDS_PUBLIC_HOST"])
"""
RENEW = ("python3", "-m", "scripts.container_credentials", "renew")
KEYS = ("python3", "-m", "control_plane.security")


def test_events_flow_while_all_credentials_change(stack: ClusterStack) -> None:
    """Logins outlive their tokens; then other certificates; then another key that signs."""
    flow = Flow(PARTITIONS)
    credentials(stack, "python3", "-c", SHORT_LIVED)
    expire_s = time.monotonic() + TOKEN_S
    stack.authenticate()
    log_in_again(stack)
    with Scenario(stack, flow=flow) as scenario:
        load = scenario.load(rate=RATE, seconds=LONGEST_S)
        flow.await_after(time.time_ns(), never)
        flow.longest_outage_s = 0.0
        outages = {}

        def done(what: str) -> None:
            flow.await_after(time.time_ns(), never)
            outages[what], flow.longest_outage_s = flow.longest_outage_s, 0.0

        shown = certificates(stack)
        credentials(stack, "sh", "-c", "rm /credentials/*/server.pem")
        credentials(stack, *RENEW)
        stack.authenticate()
        time.sleep(max(0.0, expire_s + CUT_OFF_S - time.monotonic()))
        done("tokens have expired")

        await_that(
            lambda: shown.isdisjoint(certificates(stack)),
            NOTICED_S,
            "other certificates at brokers",
        )
        log_in_again(stack)
        done("brokers' certificates")
        for service in ("postgresql", "control-plane", "control-plane-2", "proxy"):
            stack.replace(service)
        done("other certificates")

        known = {line.split()[0] for line in credentials(stack, *KEYS, "list").splitlines()}
        credentials(stack, *KEYS, "new-key")
        credentials(stack, *RENEW)
        stack.authenticate()
        stack.run("restart", "broker", "broker-2", "worker", "worker-2")
        done("signing key")
        for key in known:
            credentials(stack, "sh", "-c", f"rm /credentials/signing-keys/*-{key}.pem")
        log_in_again(stack)
        done("old signing key gone")

        report = judged(scenario, load)
        for what, outage_s in outages.items():
            sys.stdout.write(f"| {what} | {outage_s:.1f} |\n")
        sys.stdout.write(f"{row('all', report, (max(outages.values()),))}\n")
        assert report.ok, report.text()


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
