"""The local stack with its real servers: kill, restart, repeat, leave nothing behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import psycopg
import pulsar
import pytest

from scripts.devstack import http
from scripts.devstack.errors import ComponentError
from scripts.devstack.processes import leftovers, wait_until
from scripts.devstack.stack import COMPONENTS, Stack

CHECKOUT = Path(__file__).resolve().parents[2]
SEQUENCER_STATUS = "/admin/v3/functions/marketdata/functions/sequencer/status"

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]


def test_every_component_serves(stack: Stack) -> None:
    assert [(row.name, row.state) for row in stack.status()] == [
        (name, "up") for name in COMPONENTS
    ]


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    before = [stack.pid(name) for name in COMPONENTS]
    assert not stack.up()
    assert [stack.pid(name) for name in COMPONENTS] == before


def test_status_as_json_names_processes_and_addresses(stack: Stack) -> None:
    answer = subprocess.run(
        [sys.executable, CHECKOUT / "scripts" / "dev.py", "--home", stack.home, "status", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=os.sep,
    )
    components = json.loads(answer.stdout)["components"]
    assert components["pulsar"]["pid"] == stack.pid("pulsar")
    assert components["pulsar"]["urls"]["service_url"] == stack.service_url


def test_servers_listen_on_loopback_only(stack: Stack) -> None:
    pids = {stack.pid("pulsar"), stack.pid("postgresql"), stack.pid("control_plane")}
    addresses = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in pids
    }
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


@pytest.mark.chaos
def test_a_killed_function_instance_is_back(stack: Stack) -> None:
    killed: list[int] = []

    def all_run() -> bool:
        """The instances that are wanted, and no process besides (of an earlier config)."""
        status = json.loads(http.get(f"{stack.admin_url}{SEQUENCER_STATUS}") or b"{}")
        pids = stack.function_pids("sequencer")
        wanted = len(pids) == status.get("numInstances") == status.get("numRunning")
        return bool(pids) and wanted and not set(killed) & set(pids)

    assert wait_until(all_run, 300, interval_s=0.5), "they run before one is killed"
    killed.append(stack.function_pids("sequencer")[0])
    os.kill(killed[0], signal.SIGKILL)

    assert wait_until(all_run, 300, interval_s=0.5)


@pytest.mark.chaos
def test_committed_rows_survive_a_kill_of_postgresql(stack: Stack) -> None:
    with psycopg.connect(stack.database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS devstack_probe (n integer)")
        connection.execute("INSERT INTO devstack_probe VALUES (1)")
    url = stack.database_url
    stack.kill("postgresql")
    assert stack.pid("postgresql") is None
    with pytest.raises(ComponentError, match="not running"):
        stack.kill("postgresql")
    stack.start("postgresql")
    assert stack.database_url == url
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT count(*) FROM devstack_probe").fetchone() == (1,)
        connection.execute("DROP TABLE devstack_probe")


@pytest.mark.chaos
def test_messages_and_functions_survive_a_kill_of_the_broker(stack: Stack) -> None:
    topic = "persistent://public/default/devstack-probe"
    url = f"{stack.admin_url}/admin/v2/persistent/public/default/devstack-probe"
    httpx.put(url).raise_for_status()
    client = pulsar.Client(stack.service_url)
    producer = client.create_producer(topic)
    for number in range(100):
        producer.send(str(number).encode())
    client.close()
    instances = len(stack.function_pids("sequencer"))

    stack.kill("pulsar")
    stack.start("pulsar")

    client = pulsar.Client(stack.service_url)
    reader = client.create_reader(topic, pulsar.MessageId.earliest)
    assert [int(reader.read_next(10_000).data()) for _ in range(100)] == list(range(100))
    client.close()
    status = f"{stack.admin_url}{SEQUENCER_STATUS}"

    def functions_run() -> bool:
        return json.loads(http.get(status) or b"{}").get("numRunning") == instances

    assert wait_until(functions_run, 300, interval_s=0.5)


@pytest.mark.chaos
def test_up_repairs_what_is_down(stack: Stack) -> None:
    stack.kill("control_plane")
    broker = stack.pid("pulsar")
    assert stack.up()
    assert stack.pid("pulsar") == broker
    assert all(row.state == "up" for row in stack.status())


@pytest.mark.chaos
def test_down_leaves_nothing_behind_even_after_a_kill_of_the_broker(stack: Stack) -> None:
    stack.kill("pulsar")
    assert stack.down()
    assert leftovers(stack.home) == []
    assert not stack.down()
    stack.up()
    assert all(row.state == "up" for row in stack.status())
