"""What is left behind when a repair does not help, and who waits for it meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import pytest
from sqlalchemy import select
from world import reconciler_of

from control_plane import function_keeper as keeping
from control_plane.database import Database
from control_plane.domains.audit.service import AuditService
from control_plane.domains.events.models import EventRow
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.functions.topology import KnownTopology
from control_plane.domains.ordering.follower import FollowerState
from control_plane.domains.system.metrics import Metrics
from control_plane.function_keeper import FunctionKeeper
from control_plane.pulsar_values import FunctionStatus, InstanceStatus
from control_plane.settings import Settings
from control_plane.topology import load_topology
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


class Known(KnownTopology):
    """What the files say of one function."""

    changed: Mapping[str, Any] = MappingProxyType({})

    async def load(self) -> None:
        await super().load()
        if self.functions is not None:
            spec = replace(self.functions.functions[FUNCTION], **self.changed)
            self.functions = replace(self.functions, functions={FUNCTION: spec})


def keeper_of(
    worker: Worker,
    database: Database,
    settings: Settings,
    metrics: Metrics,
    *,
    known: Known | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> FunctionKeeper:
    board, audit = StatusBoard(), AuditService(database, seal_seconds=1)
    known = known or Known(settings.topology_dir, board)
    return FunctionKeeper(
        database, cast(Any, worker), board, metrics, audit, known, settings, clock=clock
    )


@pytest.fixture
def wanted(settings: Settings) -> dict[str, Any]:
    """The config that the topology wants."""
    return pulsar_config(load_topology(settings.topology_dir).functions[FUNCTION])


@pytest.mark.parametrize("seen_running", [True, False])
async def test_what_was_altered_by_hand_is_no_state_to_go_back_to(
    database: Database,
    wanted: dict[str, Any],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    seen_running: bool,
) -> None:
    monkeypatch.setattr(keeping, "APPLY_TIMEOUT_SECONDS", 0.0)
    altered = {**wanted, "userConfig": {**wanted["userConfig"], "log_level": "error"}}
    worker, metrics = Worker(wanted if seen_running else altered), Metrics(FollowerState())
    one = keeper_of(worker, database, settings, metrics)
    assert await one.look_once()
    worker.config, worker.healthy = altered, False
    # A difference is acted on when it is seen twice.
    for _ in range(2):
        await one.look_once()
    assert worker.config == (wanted if seen_running else altered)
    assert metrics.reconcile_errors.labels("function")._value.get() == 1
    told = await events(database)
    assert told[-1] == ("function.not_repaired", "sequencer")
    assert told.count(("function.changed", "sequencer")) == 1


async def events(database: Database) -> list[tuple[str, str]]:
    """The types of what was told, and of which function."""
    async with database.transaction() as session:
        rows = await session.scalars(select(EventRow).order_by(EventRow.id))
        return [(row.type, row.data["name"]) for row in rows]


async def test_it_is_told_how_a_function_is_and_what_was_done(
    database: Database, wanted: dict[str, Any], settings: Settings
) -> None:
    altered = {**wanted, "userConfig": {**wanted["userConfig"], "log_level": "error"}}
    worker = Worker(altered)
    one = keeper_of(worker, database, settings, Metrics(FollowerState()))
    for _ in range(4):
        await one.look_once()
    assert worker.config == wanted
    assert await events(database) == [
        ("function.changed", "sequencer"),
        ("function.repaired", "sequencer"),
        ("function.changed", "sequencer"),
    ]


async def test_another_keeper_tells_only_what_was_not_told(
    database: Database, wanted: dict[str, Any], settings: Settings
) -> None:
    altered = {**wanted, "userConfig": {**wanted["userConfig"], "log_level": "error"}}
    worker = Worker(altered)
    keepers = [keeper_of(worker, database, settings, Metrics(FollowerState())) for _ in range(3)]

    async def told() -> int:
        return (await events(database)).count(("function.changed", "sequencer"))

    for one in keepers[:2]:
        await one.look_once()
    assert await told() == 1
    worker.config = wanted
    for one in (keepers[2], keepers[0]):
        await one.look_once()
    assert await told() == 2
    # It is again as this one saw it, before another one told that it ran.
    worker.config = altered
    await keepers[1].look_once()
    assert await told() == 3


async def test_what_the_topology_wants_anew_is_left_to_who_has_changed_it(
    database: Database, wanted: dict[str, Any], settings: Settings
) -> None:
    now = 1000.0
    worker, known = Worker(wanted), Known(settings.topology_dir, StatusBoard())
    metrics = Metrics(FollowerState())
    one = keeper_of(worker, database, settings, metrics, known=known, clock=lambda: now)
    await one.look_once()
    known.changed = {"parallelism": int(wanted["parallelism"]) + 1}
    for _ in range(3):
        await one.look_once()
    assert worker.config == wanted
    # Nobody has applied it.
    now += keeping.ROLLOUT_SECONDS
    for _ in range(2):
        await one.look_once()
    assert worker.config["parallelism"] == int(wanted["parallelism"]) + 1


class Groups:
    """A part of the reconciler that counts its looks."""

    looks = 0

    async def look(self) -> None:
        self.looks += 1


async def test_who_may_no_longer_read_does_not_have_the_time_that_a_function_takes(
    database: Database,
    wanted: dict[str, Any],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While one is repaired the reconciler's looks go on, and nobody else repairs."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def apply(*_: Any, **__: Any) -> None:
        begun.set()
        await ended.wait()

    monkeypatch.setattr(keeping, "apply", apply)
    metrics, groups = Metrics(FollowerState()), Groups()
    worker = Worker({**wanted, "parallelism": 1})
    one, other = (keeper_of(worker, database, settings, metrics) for _ in "ab")
    await one.look_once()
    repairing = asyncio.create_task(one.look_once())
    async with asyncio.timeout(120):
        await begun.wait()
        parts = {
            "metrics": metrics,
            "backlogs": groups,
            "groups": groups,
            "health": groups,
            "expiry": groups,
        }
        reconciler = reconciler_of(database, settings, **parts)
        assert await reconciler.look_once()
        assert groups.looks == 4
        assert not await other.look_once()
        ended.set()
        assert await repairing
