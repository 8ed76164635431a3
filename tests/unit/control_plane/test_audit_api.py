"""The audit log on the whole application, with a real PostgreSQL and tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from access import Client, Tokens, secured
from litestar.testing import AsyncTestClient
from world import World

from control_plane.acting import Actor, Refusal, acting, component
from control_plane.app import create_app
from control_plane.database import Database
from control_plane.domains.audit import repository
from control_plane.domains.audit.__main__ import main
from control_plane.domains.audit.models import AuditEntry
from control_plane.domains.audit.service import MOST_REFUSALS, AuditService
from control_plane.domains.consumers.schemas import ConsumerCreate
from control_plane.errors import DatabaseUnavailableError
from control_plane.function_keeper import _repair
from control_plane.security.roles import Role
from control_plane.settings import Settings
from control_plane.topology import Change
from control_plane.topology.diff import Attribute

HOUR = timedelta(hours=1)


@pytest.fixture
def safe(settings: Settings, tmp_path: Path) -> Settings:
    # Sealed when a test says so.
    return secured(settings, tmp_path, audit_seal_seconds=60.0)


@pytest.fixture
def tokens(safe: Settings) -> Tokens:
    return Tokens(safe)


@pytest.fixture
async def client(safe: Settings) -> AsyncIterator[Client]:
    async with AsyncTestClient(create_app(safe), raise_server_exceptions=False) as client:
        yield client


def audit_of(client: Client) -> AuditService:
    service = client.app.state.control_plane.audit
    assert isinstance(service, AuditService)
    return service


async def entries(client: Client, tokens: Tokens, **wanted: Any) -> list[dict[str, Any]]:
    answer = await client.get("/v1/audit", params=wanted, headers=tokens.platform())
    assert answer.status_code == 200, answer.text
    items = answer.json()["items"]
    assert isinstance(items, list)
    return items


async def test_a_change_is_told_with_who_from_where_and_what(
    client: Client, tokens: Tokens
) -> None:
    token, claims = tokens.ring.issue(subject="ann", role=Role.PLATFORM, lifetime=HOUR)
    headers = {"Authorization": f"Bearer {token}", "X-Request-ID": "the-request"}
    made = await client.post("/v1/consumers", json={"name": "desk"}, headers=headers)
    await client.patch("/v1/consumers/desk", json={"contact": "x@y"}, headers=headers)
    update, insert = await entries(client, tokens, resource_id=made.json()["id"])
    assert insert["actor"] == "ann"
    assert insert["role"] == "platform"
    assert insert["token_id"] == claims.token_id
    assert insert["request_id"] == "the-request"
    assert insert["address"] == "testclient"
    assert (insert["operation"], update["operation"]) == ("createConsumer", "updateConsumer")
    assert (insert["action"], insert["resource"], insert["outcome"]) == (
        "insert",
        "consumers",
        "done",
    )
    assert insert["before"] is None
    assert insert["after"]["name"] == "desk"
    changed = {"contact", "version", "updated_at"}
    assert (set(update["before"]), set(update["after"])) == (changed, changed)
    assert (update["before"]["contact"], update["after"]["contact"]) == ("", "x@y")
    assert token not in str([insert, update])
    # What changes nothing is no change.
    await client.patch("/v1/consumers/desk", json={"contact": "x@y"}, headers=headers)
    assert len(await entries(client, tokens, resource="consumers")) == 2


async def test_what_is_rolled_back_leaves_no_entry(client: Client, tokens: Tokens) -> None:
    for status in (201, 409):
        made = await client.post("/v1/consumers", json={"name": "desk"}, headers=tokens.platform())
        assert made.status_code == status
    assert len(await entries(client, tokens, resource="consumers")) == 1


async def test_refused_attempts_are_told_equal_ones_once(client: Client, tokens: Tokens) -> None:
    for _ in range(3):
        assert (await client.get("/v1/plans")).status_code == 401
    nobody = {"Authorization": "Bearer aaaaaaaaaaaa.bbbbbbbbbbbbbb.cccccccccc"}
    path = f"/v1/consumers/{nobody['Authorization'][7:]}"
    assert (await client.delete(path, headers=nobody)).status_code == 401
    reader = tokens.of(Role.READ_ONLY, "grafana")
    assert (await client.post("/v1/consumers", json={}, headers=reader)).status_code == 403
    await audit_of(client).write_refusals()
    forbidden, broken, missing = await entries(client, tokens, outcome="refused")
    assert (missing["actor"], missing["resource_id"]) == ("unauthenticated", "GET /v1/plans")
    assert missing["detail"] == {"status": 401, "reason": "missing", "times": 3}
    assert broken["detail"]["reason"] == "malformed"
    assert broken["resource_id"] == "DELETE /v1/consumers/…"
    assert (forbidden["actor"], forbidden["role"]) == ("grafana", "read-only")
    assert forbidden["operation"] == "createConsumer"
    assert forbidden["detail"] == {"status": 403, "times": 1}


async def test_a_flood_of_refusals_is_counted_not_told_one_by_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.domains.audit.service.REFUSALS_SECONDS", 3600)
    audit = AuditService(database, seal_seconds=60)

    def refuse(address: str, path: str, name: str = "unauthenticated") -> None:
        actor = Actor(name, address=address, request_id=path)
        audit.refused(Refusal(actor, 401, "missing", f"GET /{path}"))

    for number in range(MOST_REFUSALS + 7):
        refuse(f"a{number}", "x")
    await audit.write_refusals()
    rest, *told = [row async for row in rows(database)]
    assert len(told) == MOST_REFUSALS
    assert (rest.resource_id, rest.detail) == ("*", {"times": 7})
    # There is a limit over time too, and it is not that of who is known.
    for number in range(3):
        refuse("b", str(number))
        refuse("b", str(number), "ann")
    await audit.write_refusals()
    rest, *anns = [row async for row in rows(database)][: -MOST_REFUSALS - 1]
    assert rest.detail == {"times": 3}
    assert [row.actor for row in anns] == ["ann"] * 3
    audit._told_until = 0
    # Of who is not known the path makes no difference.
    for number in range(3):
        refuse("b", str(number))
    await audit.close()
    newest, *before = [row async for row in rows(database)]
    assert (newest.resource_id, newest.detail["times"]) == ("GET /0", 3)
    assert len(before) == MOST_REFUSALS + 5


async def test_refusals_are_told_once_whatever_happens_while_they_are_written(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = AuditService(database, seal_seconds=60)
    add = repository.add

    def refuse(path: str) -> None:
        audit.refused(Refusal(Actor("ann"), 403, "", path))

    async def slow(session: Any, entries: Any) -> None:
        refuse("GET /a")
        refuse("GET /b")
        await add(session, entries)

    async def broken(session: Any, entries: Any) -> None:
        await slow(session, entries)
        raise DatabaseUnavailableError("away")

    refuse("GET /a")
    monkeypatch.setattr(repository, "add", broken)
    with pytest.raises(DatabaseUnavailableError):
        await audit.write_refusals()
    monkeypatch.setattr(repository, "add", slow)
    await audit.write_refusals()
    monkeypatch.setattr(repository, "add", add)
    await audit.write_refusals()
    told = [(row.resource_id, row.detail["times"]) async for row in rows(database)]
    assert sorted(told) == [("GET /a", 1), ("GET /a", 2), ("GET /b", 1), ("GET /b", 1)]


async def test_refusals_that_cannot_be_written_do_not_keep_the_log_from_being_sealed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit = AuditService(world.database, seal_seconds=0.01)

    async def broken(*_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(repository, "add", broken)
    audit.refused(Refusal(Actor("ann"), 403, "", "GET /a"))
    task = asyncio.create_task(audit.run())
    while (await audit.verify(limit=10)).unsealed:
        assert not task.done()
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def rows(database: Database) -> AsyncIterator[Any]:
    everything = repository.LISTING.ask(None, None, 10_000)
    async with database.transaction() as session:
        for row in await repository.page(session, everything, repository.Wanted()):
            yield row


async def test_lists_go_by_pages_and_by_what_is_wanted(client: Client, tokens: Tokens) -> None:
    platform = tokens.platform()
    for name in ("a", "b", "c"):
        await client.post("/v1/consumers", json={"name": name}, headers=platform)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/audit", params=params, headers=platform)).json()
        seen += [item["after"]["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ["c", "b", "a"]
    middle = (await entries(client, tokens))[1]["recorded_at"]
    assert [e["after"]["name"] for e in await entries(client, tokens, since=middle)] == ["c", "b"]
    assert [e["after"]["name"] for e in await entries(client, tokens, until=middle)] == ["a"]
    assert await entries(client, tokens, actor="bob") == []
    for wrong in ({"cursor": "x"}, {"until": "2026-01-01T00:00:00"}):
        refused = await client.get("/v1/audit", params=wrong, headers=platform)
        assert refused.status_code == 422, refused.text


async def test_only_who_may_observe_reads_it(client: Client, tokens: Tokens) -> None:
    for path in ("/v1/audit", "/v1/audit/verification"):
        for role, status in ((Role.READ_ONLY, 200), (Role.PUBLISHER, 403)):
            answer = await client.get(path, headers=tokens.of(role, "feed"))
            assert answer.status_code == status
        mine = tokens.of(Role.CONSUMER, "c" + "0" * 16)
        assert (await client.get(path, headers=mine)).status_code == 403


async def test_a_sealed_log_is_verified_in_parts_and_against_a_noted_head(
    client: Client,
    tokens: Tokens,
    safe: Settings,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DDS_DATABASE_URL", safe.database_url)
    platform = tokens.platform()
    for name in ("a", "b", "c"):
        await client.post("/v1/consumers", json={"name": name}, headers=platform)
    assert await audit_of(client).seal() == 3
    assert await audit_of(client).seal() == 0

    async def verify(**params: Any) -> dict[str, Any]:
        answer = await client.get("/v1/audit/verification", params=params, headers=platform)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert isinstance(found, dict)
        return found

    whole = await verify()
    assert whole["holds"]
    assert (whole["checked"], whole["next_after"], whole["unsealed"]) == (3, None, 0)
    head = f"{whole['head']['sequence']}:{whole['head']['digest']}"
    first = await verify(limit=2)
    assert (first["checked"], first["next_after"]) == (2, 2)
    rest = await verify(limit=2, after=2)
    assert (rest["checked"], rest["next_after"], rest["verified"]) == (1, None, whole["head"])
    assert (await verify(head=head))["holds"]
    assert not (await verify(head=head.replace(":", ":0", 1)[:-1]))["holds"]
    no_entry = await client.get("/v1/audit/verification", params={"after": 9}, headers=platform)
    assert no_entry.status_code == 422

    assert await asyncio.to_thread(main, ["verify", "--head", head]) == 0
    assert head in capsys.readouterr().out.splitlines()
    assert await asyncio.to_thread(main, ["verify", "--head", "9:" + "0" * 64]) == 1
    assert "BROKEN at entry 9" in capsys.readouterr().err
    by_hand(safe.database_url, "UPDATE audit_entries SET actor = 'eve' WHERE sequence = 2")
    assert await asyncio.to_thread(main, ["verify"]) == 1
    assert "BROKEN at entry 2: changed" in capsys.readouterr().err


def by_hand(url: str, statement: str) -> None:
    """As the owner of the database, with the log's own protection switched off."""
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement.encode())


@pytest.fixture
async def sealed(world: World) -> AuditService:
    """A chain of five entries, and one that is not sealed."""
    audit = AuditService(world.database, seal_seconds=60)
    with acting(lambda: component("test")):
        for name in ("one", "two", "three", "four"):
            await world.consumers.create(ConsumerCreate(name=name))
        assert await audit.seal() == 5
        await world.consumers.create(ConsumerCreate(name="five"))
    found = await audit.verify(limit=100)
    assert (found.holds, found.checked, found.unsealed) == (True, 5, 1)
    return audit


OF_THE_THIRD = "UPDATE audit_entries SET {} = {} WHERE sequence = 3"
TAMPERING = [
    *(
        (OF_THE_THIRD.format(column, value), 3)
        for column, value in (
            ("recorded_at", "recorded_at + interval '1 microsecond'"),
            ("actor", "'x'"),
            ("role", "'x'"),
            ("token_id", "'x'"),
            ("operation", "'x'"),
            ("request_id", "'x'"),
            ("address", "'x'"),
            ("database_user", "'x'"),
            ("action", "'x'"),
            ("resource", "'x'"),
            ("resource_id", "'x'"),
            ("outcome", "'failed'"),
            ("before", "'{}'"),
            ("after", "jsonb_set(after, '{name}', '\"x\"')"),
            ("detail", "'{}'"),
            ("digest", "sha256('x')"),
            ("sequence", "9"),
        )
    ),
    ("DELETE FROM audit_entries WHERE sequence = 1", 1),
    ("DELETE FROM audit_entries WHERE sequence = 3", 3),
    ("DELETE FROM audit_entries WHERE sequence = 5", 5),
    ("DELETE FROM audit_entries", 1),
    ("UPDATE audit_entries SET sequence = NULL, digest = NULL WHERE sequence = 5", 5),
    ("UPDATE audit_head SET sequence = 4", 6),
    ("UPDATE audit_head SET digest = sha256('x')", 6),
    ("DELETE FROM audit_head", 6),
]
COLUMNS_OF_ENTRIES = ", ".join(AuditEntry.__table__.c.keys())


async def test_what_is_done_to_a_stored_log_is_found(
    sealed: AuditService, database_url: str
) -> None:
    by_hand(database_url, "CREATE TABLE entries AS TABLE audit_entries")
    by_hand(database_url, "CREATE TABLE head AS TABLE audit_head")
    put_back = (
        "DELETE FROM audit_entries; DELETE FROM audit_head;"
        "INSERT INTO audit_head SELECT * FROM head;"
        f"INSERT INTO audit_entries ({COLUMNS_OF_ENTRIES}) OVERRIDING SYSTEM VALUE"
        f" SELECT {COLUMNS_OF_ENTRIES} FROM entries"
    )
    for statement, place in TAMPERING:
        by_hand(database_url, statement)
        found = await sealed.verify(limit=100)
        assert not found.holds, statement
        assert found.broken is not None
        assert found.broken.sequence == place, statement
        by_hand(database_url, put_back)
    assert (await sealed.verify(limit=100)).holds


@pytest.mark.usefixtures("sealed")
async def test_postgresql_refuses_to_change_the_log(database_url: str) -> None:
    for statement in (
        "UPDATE audit_entries SET actor = 'x'",
        "UPDATE audit_entries SET actor = 'x', sequence = 6, digest = '' WHERE sequence IS NULL",
        "UPDATE audit_entries SET sequence = 7, digest = '' WHERE sequence = 5",
        "DELETE FROM audit_entries",
        "TRUNCATE audit_entries",
        "UPDATE audit_head SET sequence = 0",
        "DELETE FROM audit_head",
        "TRUNCATE audit_head",
    ):
        with (
            psycopg.connect(database_url) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(statement.encode())


async def test_what_is_changed_in_the_database_by_hand_is_told_too(
    sealed: AuditService, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE consumers SET owner = 'eve' WHERE name = 'one'")
        # Neither time nor user can be made up.
        connection.execute(
            "INSERT INTO audit_entries (actor, action, resource, resource_id, recorded_at,"
            " database_user, sequence, digest)"
            " VALUES ('ann', 'x', 'y', 'z', '2020-01-01', 'ann', 1, '')"
        )
        connection.execute("TRUNCATE dead_letter_resends")
        found = connection.execute(
            "SELECT actor, database_user = session_user, action, resource_id, sequence,"
            " recorded_at > now() - interval '1 day' FROM audit_entries ORDER BY id DESC LIMIT 3"
        ).fetchall()
        truncated, made_up, update = found
        assert truncated == ("database", True, "truncate", "*", None, True)
        assert made_up == ("ann", True, "x", "z", None, True)
        assert (update[0], update[2]) == ("database", "update")
    assert (await sealed.verify(limit=100)).silenced == []
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE consumers DISABLE TRIGGER audit_change")
    silent = await sealed.verify(limit=100)
    assert (silent.holds, silent.silenced) == (False, ["consumers"])


async def test_control_planes_that_write_at_once_wait_for_none_and_make_one_chain(
    world: World, database_url: str
) -> None:
    """A change under way, whose entry is written, holds up neither others nor their sealing."""
    other = Database(database_url)
    audits = [AuditService(world.database, seal_seconds=60), AuditService(other, seal_seconds=60)]
    try:
        async with other.transaction() as session:
            slow = await session.connection()
            await slow.exec_driver_sql("UPDATE consumers SET owner = 'slow' WHERE name = 'desk'")
            for number in range(4):
                await world.consumers.create(ConsumerCreate(name=f"quick-{number}"))
            assert await audits[0].seal() == 5
        # Its id is lower than those of what was sealed before it; none is left out.
        await asyncio.gather(
            *(world.consumers.create(ConsumerCreate(name=f"more-{n}")) for n in range(8)),
            *(audit.seal() for audit in audits * 3),
        )
        await audits[0].seal()
        found = await audits[1].verify(limit=100)
        assert (found.holds, found.checked, found.unsealed) == (True, 14, 0)
    finally:
        await other.close()


async def test_the_outbox_is_told_as_the_control_planes_own(world: World) -> None:
    with acting(lambda: component("publisher")):
        key = await world.subscribe("all")
        await world.settle()
    told = [(row.actor, row.operation, row.resource) async for row in rows(world.database)]
    assert ("control-plane", "publisher", "plans") in told
    activated, *_ = [row async for row in rows(world.database) if row.resource_id == key]
    assert (activated.before["state"], activated.after["state"]) == ("pending", "active")
    plans = [row async for row in rows(world.database) if row.resource == "plans"]
    assert all("document" not in (row.after or {}) for row in plans)


async def test_repairs_are_told_with_what_differed(database: Database) -> None:
    audit = AuditService(database, seal_seconds=60)
    drift = Attribute("parallelism", 1, 2)
    change = Change("update", "function", "marketdata/functions/sequencer", (drift,))
    await audit.repaired([_repair(change), _repair(change, failure="no answer")])
    await audit.repaired([])
    failed, done = [row async for row in rows(database)]
    assert (done.actor, done.operation) == ("control-plane", "reconciler")
    assert (done.action, done.resource, done.resource_id) == ("update", "functions", "sequencer")
    assert (done.before, done.after) == ({"parallelism": "1"}, {"parallelism": "2"})
    assert (done.outcome, failed.outcome) == ("done", "failed")
    assert failed.detail == {"failure": "no answer"}
