"""What takes its time is stored, carried out once by one control plane, and told to its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from litestar.testing import AsyncTestClient
from sqlalchemy import text

from control_plane.database import Database
from control_plane.domains.functions.codes import FunctionCodes
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.operations import repository
from control_plane.domains.operations import worker as working
from control_plane.domains.operations.models import OperationKind
from control_plane.domains.operations.service import OperationService
from control_plane.domains.operations.worker import OperationWorker
from control_plane.errors import ConflictError, NotFoundError
from control_plane.topology import Actual, ApplyError, Change, Event, FunctionState, load_topology
from control_plane.topology.model import Topology

FUNCTION = "marketdata/functions/sequencer"
RESTART, REDEPLOY = OperationKind.RESTART_FUNCTION, OperationKind.REDEPLOY_FUNCTION


class Codes:
    """No code was kept."""

    async def add(self, change: Change) -> Change:
        return change


class Applied:
    """Takes the place of `apply`: records, and ends as a test wants."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.ends: Callable[[Change], BaseException | None] = lambda _: None

    async def __call__(
        self, _admin: Any, changes: list[Change], *, on_event: Callable[[Event], None], **_: Any
    ) -> None:
        (change,) = changes
        self.changes.append(change)
        on_event(Event("waiting", change, "1 of 2 run"))
        error = self.ends(change)
        if error is not None:
            raise error


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> Applied:
    made = Applied()
    monkeypatch.setattr(working, "apply", made)
    return made


@pytest.fixture
def topology() -> Topology:
    return load_topology("topology").only_functions()


@pytest.fixture
def service(database: Database) -> OperationService:
    board = StatusBoard()
    board.expected = {"sequencer": 1, "distributor": 2}
    return OperationService(database, board, wake=lambda: None)


def worker(database: Database, *, clock: Callable[[], float] = time.monotonic) -> OperationWorker:
    unused, codes = cast(Any, None), cast(FunctionCodes, Codes())
    return OperationWorker(database, unused, codes, timeout_s=1, kept_days=30, clock=clock)


DEPLOYED = Actual(functions={FUNCTION: FunctionState(FUNCTION, {}, 1, 1)})


async def told(database: Database) -> list[tuple[str, Any]]:
    async with database.transaction() as session:
        rows = await session.execute(
            text("SELECT type, data FROM events WHERE type LIKE 'operation.%' ORDER BY id")
        )
        return [(row.type, row.data) for row in rows]


@pytest.mark.parametrize(
    ("kind", "actual", "action"),
    [
        (RESTART, DEPLOYED, "restart"),
        (REDEPLOY, DEPLOYED, "replace"),
        (REDEPLOY, Actual(), "create"),
        (RESTART, Actual(), "create"),
    ],
)
async def test_an_operation_is_carried_out_once(
    database: Database,
    service: OperationService,
    applied: Applied,
    topology: Topology,
    kind: OperationKind,
    actual: Actual,
    action: str,
) -> None:
    asked = await service.ask(kind, "sequencer")
    assert (asked.state, asked.attempts) == ("waiting", 0)
    with pytest.raises(ConflictError):
        await service.ask(RESTART, "sequencer")
    one = worker(database)
    assert await one.work(topology, actual)
    assert not await one.work(topology, actual)
    assert [(change.action, change.name) for change in applied.changes] == [(action, FUNCTION)]
    found = await service.get(asked.id)
    assert (found.state, found.attempts, found.problem) == ("done", 1, None)
    assert found.ended_at is not None
    data = {"name": "sequencer", "id": asked.id, "kind": kind.value}
    assert await told(database) == [("operation.done", data)]
    # What has ended stands in nobody's way.
    assert (await service.ask(kind, "sequencer")).state == "waiting"


async def test_what_fails_says_why(
    database: Database, service: OperationService, applied: Applied, topology: Topology
) -> None:
    applied.ends = lambda change: ApplyError(change, "0 of 1 run")
    asked = await service.ask(RESTART, "sequencer")
    assert await worker(database).work(topology, DEPLOYED)
    found = await service.get(asked.id)
    assert found.state == "failed"
    assert found.problem is not None
    assert "0 of 1 run" in found.problem.detail
    assert [what for what, _ in await told(database)] == ["operation.failed"]


async def test_another_control_plane_begins_again_what_one_left(
    database: Database, service: OperationService, applied: Applied, topology: Topology
) -> None:
    """The one that ends meanwhile can say nothing more, as after a kill -9."""

    class Killed(BaseException):
        pass

    asked = await service.ask(RESTART, "sequencer")
    later = await service.ask(RESTART, "distributor")
    applied.ends = lambda _: Killed()
    for attempt in (1, 2):
        with pytest.raises(Killed):
            await worker(database).work(topology, DEPLOYED)
        found = await service.get(asked.id)
        assert (found.state, found.attempts) == ("running", attempt)
    applied.ends = lambda _: None
    assert await worker(database).work(topology, DEPLOYED)
    assert (await service.get(asked.id)).state == "done"
    assert (await service.get(later.id)).state == "waiting"


async def test_what_is_interrupted_again_and_again_fails(
    database: Database, service: OperationService, applied: Applied, topology: Topology
) -> None:
    asked = await service.ask(RESTART, "sequencer")
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE operations SET state = 'running', attempts = 3, started_at = now()")
        )
    assert not await worker(database).work(topology, DEPLOYED)
    found = await service.get(asked.id)
    assert (found.state, found.problem and found.problem.title) == ("failed", "Interrupted")
    assert applied.changes == []


async def test_a_function_that_the_topology_no_longer_names_is_left_alone(
    database: Database, service: OperationService, applied: Applied
) -> None:
    asked = await service.ask(REDEPLOY, "sequencer")
    empty = Topology(4, {}, {}, {}, {})
    assert await worker(database).work(empty, DEPLOYED)
    assert (await service.get(asked.id)).state == "failed"
    assert applied.changes == []


async def test_what_an_older_control_plane_does_not_know_is_not_begun_again_and_again(
    database: Database, service: OperationService, applied: Applied, topology: Topology
) -> None:
    asked = await service.ask(RESTART, "sequencer")
    async with database.transaction() as session:
        await session.execute(text("UPDATE operations SET kind = 'function.paint'"))
    assert await worker(database).work(topology, DEPLOYED)
    found = await service.get(asked.id)
    assert (found.state, found.attempts) == ("failed", 1)
    assert found.problem is not None
    assert "function.paint" in found.problem.detail
    assert applied.changes == []


async def test_what_ended_too_long_ago_is_forgotten_a_piece_at_a_time(
    database: Database, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what waits or runs, however old."""
    monkeypatch.setattr(repository, "DELETE_CHUNK", 2)
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO operations (id, kind, target, state, problem, attempts, created_at,"
                " started_at, ended_at)"
                " SELECT 'o' || lpad(n::text, 16, '0'), 'function.restart', state || n, state,"
                " CASE state WHEN 'failed' THEN '{}'::jsonb END, 3, at, at,"
                " CASE WHEN state IN ('done', 'failed') THEN at END"
                " FROM unnest(ARRAY['done', 'failed', 'done', 'waiting', 'running', 'done'],"
                " ARRAY[40, 31, 31, 90, 90, 29]) WITH ORDINALITY AS given(state, age, n),"
                " LATERAL (SELECT now() - make_interval(days => age) AS at) AS made"
            )
        )
    clock = {"now": 0.0}
    sweeping = worker(database, clock=lambda: clock["now"])
    await sweeping.sweep()
    assert await states(database) == ["waiting", "running", "done"]
    # By itself, now and then.
    async with database.transaction() as session:
        await session.execute(text("DELETE FROM operations WHERE state IN ('waiting', 'running')"))
    for now, left in ((0.0, ["done"]), (30.0, ["done"]), (60.0, [])):
        clock["now"] = now
        assert not await sweeping.work(topology, DEPLOYED)
        assert await states(database) == left
        async with database.transaction() as session:
            await session.execute(text("UPDATE operations SET ended_at = now() - interval '1 y'"))


async def states(database: Database) -> list[str]:
    async with database.transaction() as session:
        rows = await session.scalars(text("SELECT state FROM operations ORDER BY id"))
        return list(rows)


async def test_operations_are_listed_newest_first(service: OperationService) -> None:
    with pytest.raises(NotFoundError):
        await service.ask(RESTART, "nothing")
    one, two = [await service.ask(RESTART, name) for name in ("sequencer", "distributor")]
    first = await service.page(cursor=None, limit=1, target=None, state=None)
    rest = await service.page(cursor=first.next_cursor, limit=1, target=None, state=None)
    assert [each.id for each in (*first.items, *rest.items)] == [two.id, one.id]
    assert rest.next_cursor is None
    some = await service.page(cursor=None, limit=9, target="sequencer", state="waiting")
    assert [each.id for each in some.items] == [one.id]


async def test_over_http_an_operation_has_a_place_and_a_time_to_ask_again(
    client: AsyncTestClient[Any],
) -> None:
    client.app.state.control_plane.board.expected = {"sequencer": 1}
    headers = {"Idempotency-Key": "once"}
    answers = [await client.post("/v1/functions/sequencer/restart", headers=headers) for _ in "ab"]
    assert [answer.status_code for answer in answers] == [202, 202]
    asked, again = (answer.json() for answer in answers)
    assert asked == again
    assert answers[0].headers["location"] == f"/v1/operations/{asked['id']}"
    found = await client.get(answers[0].headers["location"])
    assert (found.json()["state"], found.headers["retry-after"]) == ("waiting", "2")
    refused = await client.post("/v1/functions/sequencer/redeploy")
    assert refused.status_code == 409
    assert (await client.get("/v1/operations/nothing")).status_code == 404
    assert (await client.post("/v1/functions/nothing/restart")).status_code == 404
    entries = (await client.get("/v1/audit", params={"resource": "operations"})).json()["items"]
    assert [(each["operation"], each["action"]) for each in entries] == [
        ("restartFunction", "insert")
    ]
