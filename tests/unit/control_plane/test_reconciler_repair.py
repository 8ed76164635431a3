"""What the reconciler leaves behind when what it repairs does not become healthy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from world import reconciler_of

from control_plane import reconciler as reconciling
from control_plane.database import Database
from control_plane.domains.audit.service import AuditService
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.system.metrics import Metrics
from control_plane.pulsar_values import FunctionStatus, InstanceStatus
from control_plane.reconciler import Reconciler
from control_plane.settings import Settings
from control_plane.topology import Topology, load_topology
from control_plane.topology.function_config import pulsar_config

FUNCTION = "marketdata/functions/sequencer"


class Worker:
    """A functions worker with one function whose instances run or do not."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.healthy = True

    async def clusters(self) -> list[str]:
        return ["standalone"]

    async def tenants(self) -> list[str]:
        return ["marketdata"]

    async def namespaces(self, _tenant: str) -> list[str]:
        return ["marketdata/functions"]

    async def functions(self, _namespace: str) -> list[str]:
        return ["sequencer"]

    async def function_config(self, _name: str) -> dict[str, Any]:
        return self.config

    async def function_status(self, _name: str, **_: Any) -> FunctionStatus:
        count = int(self.config["parallelism"])
        instances = [
            InstanceStatus(each, self.healthy, "", 0, "worker", 0, 0, 0) for each in range(count)
        ]
        return FunctionStatus(count, count if self.healthy else 0, tuple(instances))

    async def subscriptions(self, _topic: str) -> list[str]:
        return []

    async def function_packages(self, _name: str) -> list[str]:
        return []

    async def update_function(self, _name: str, config: dict[str, Any], *_: Any) -> None:
        self.config = config


class Broken:
    """A part of the reconciler that has an error in it."""

    async def look(self) -> None:
        raise RuntimeError("broken")


def on_worker(
    worker: Worker, database: Database, settings: Settings, metrics: Metrics
) -> Reconciler:
    """A reconciler that has what it needs for functions only."""
    audit = AuditService(database, seal_seconds=1)
    parts = {"admin": worker, "board": StatusBoard(), "metrics": metrics, "audit": audit}
    return reconciler_of(
        database, settings, **parts, backlogs=Broken(), groups=Broken(), health=Broken()
    )


@pytest.fixture
def topology(settings: Settings) -> Topology:
    whole = load_topology(settings.topology_dir).only_functions()
    spec = whole.functions[FUNCTION]
    return replace(whole, functions={FUNCTION: spec})


@pytest.mark.parametrize("seen_running", [True, False])
async def test_what_was_altered_by_hand_is_no_state_to_go_back_to(
    database: Database,
    topology: Topology,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    seen_running: bool,
) -> None:
    monkeypatch.setattr(reconciling, "APPLY_TIMEOUT_SECONDS", 0.0)
    wanted = pulsar_config(topology.functions[FUNCTION])
    altered = {**wanted, "userConfig": {**wanted["userConfig"], "log_level": "error"}}
    worker, metrics = Worker(wanted if seen_running else altered), Metrics(FollowerState())
    one = on_worker(worker, database, settings, metrics)
    await one._functions(topology)
    worker.config, worker.healthy = altered, False
    # A difference is acted on when it is seen twice.
    for _ in range(2):
        await one._functions(topology)
    assert worker.config == (wanted if seen_running else altered)
    assert metrics.reconcile_errors.labels("function")._value.get() == 1


async def test_what_fails_in_one_step_keeps_no_other_from_being_taken(
    database: Database, topology: Topology, settings: Settings
) -> None:
    wanted = pulsar_config(topology.functions[FUNCTION])
    worker, metrics = Worker({**wanted, "parallelism": 1}), Metrics(FollowerState())
    one = on_worker(worker, database, settings, metrics)
    for _ in range(2):
        await one.reconcile_once()
    assert worker.config == wanted
    # In each look those of grants, which are not there, of backlogs, of groups and of health.
    assert metrics.reconcile_errors.labels("none")._value.get() == 8
