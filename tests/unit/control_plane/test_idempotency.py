"""Requests with an Idempotency-Key, on the whole application with a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import psycopg
import pytest
from access import Client, Tokens, secured
from litestar.testing import AsyncTestClient

from control_plane.app import MAX_BODY_BYTES, create_app
from control_plane.idempotency.middleware import HEADER, _read
from control_plane.security.callers import ANYBODY, Caller
from control_plane.security.roles import Role
from control_plane.settings import Settings

KEY = {HEADER: "6f1c"}


@pytest.fixture
async def pair(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Two control planes on one database, in the test's own event loop: requests run at once."""
    # On a busy machine an answer is slow, not lost.
    monkeypatch.setattr("control_plane.app.ANSWERED_WITHIN_SECONDS", 600)
    apps = [create_app(settings) for _ in range(2)]
    one, other = (
        httpx.AsyncClient(transport=httpx.ASGITransport(cast(Any, app)), base_url="http://test")
        for app in apps
    )
    async with one, other:
        yield one, other
    for app in apps:
        await app.state.control_plane.admin.aclose()
        await app.state.control_plane.database.close()


def rows(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        found = connection.execute(statement.encode())
        return found.fetchall() if found.description else []


async def test_a_repeated_request_gets_the_same_answer_and_is_not_carried_out_again(
    pair: tuple[httpx.AsyncClient, httpx.AsyncClient], settings: Settings
) -> None:
    one, other = pair
    first = await one.post("/v1/consumers", json={"name": "desk"}, headers=KEY)
    assert first.status_code == 201
    assert "idempotency-replayed" not in first.headers
    for client in pair:
        again = await client.post("/v1/consumers", json={"name": "desk"}, headers=KEY)
        assert (again.status_code, again.content) == (201, first.content)
        for name in ("etag", "location", "content-type", "content-length"):
            assert again.headers[name] == first.headers[name]
        assert again.headers["idempotency-replayed"] == "true"
        assert again.headers["x-request-id"] != first.headers["x-request-id"]
    key = {HEADER: "other"}
    changed = await one.patch("/v1/consumers/desk", json={"owner": "us"}, headers=key)
    again = await other.patch("/v1/consumers/desk", json={"owner": "us"}, headers=key)
    assert again.content == changed.content
    assert changed.json()["owner"] == "us"
    inserts = "SELECT action FROM audit_entries WHERE resource = 'consumers' ORDER BY id"
    assert rows(settings.database_url, inserts) == [("insert",), ("update",)]


async def test_another_request_with_the_key_is_refused(client: Client) -> None:
    made = await client.post("/v1/consumers", json={"name": "desk"}, headers=KEY)
    assert made.status_code == 201
    others: list[dict[str, Any]] = [
        {"url": "/v1/consumers", "json": {"name": "desk-2"}},
        {"url": "/v1/consumers?x=1", "json": {"name": "desk"}},
        {"url": "/v1/instrument-sets", "json": {"name": "desk"}},
    ]
    for other in others:
        refused = await client.post(headers=KEY, **other)
        assert refused.status_code == 422
        assert refused.json()["type"] == "urn:dds:problem:idempotency-key-reused"
    listed = await client.get("/v1/consumers")
    assert [item["name"] for item in listed.json()["items"]] == ["desk"]


async def test_what_rolled_back_is_tried_anew(client: Client) -> None:
    bad = {"name": "s", "consumer": "desk"}
    missing = await client.patch("/v1/consumers/desk", json={"owner": "us"}, headers=KEY)
    assert missing.status_code == 404
    await client.post("/v1/consumers", json={"name": "desk"})
    found = await client.patch("/v1/consumers/desk", json={"owner": "us"}, headers=KEY)
    assert found.status_code == 200
    # Refused before anything was asked of the database (there is no broker here).
    for _ in range(2):
        down = await client.post("/v1/subscriptions", json=bad, headers={HEADER: "b"})
        assert down.status_code == 503
        assert "idempotency-replayed" not in down.headers


async def test_requests_at_once_on_two_control_planes_are_carried_out_once(
    pair: tuple[httpx.AsyncClient, httpx.AsyncClient], settings: Settings
) -> None:
    answers = await asyncio.gather(
        *(client.post("/v1/consumers", json={"name": "desk"}, headers=KEY) for client in pair)
    )
    assert {answer.status_code for answer in answers} == {201}, [a.text for a in answers]
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert rows(settings.database_url, "SELECT count(*) FROM consumers") == [(1,)]


async def test_a_claim_that_is_under_way_is_waited_for(
    pair: tuple[httpx.AsyncClient, httpx.AsyncClient], settings: Settings
) -> None:
    """A request that was read before the other's key could be seen waits in PostgreSQL."""
    with psycopg.connect(settings.database_url) as first:
        first.execute(
            "INSERT INTO idempotency_keys (caller, key, fingerprint, request_id)"
            " VALUES ('platform:anybody', '6f1c', 'x', 'r')"
        )
        second = asyncio.create_task(
            pair[0].post("/v1/consumers", json={"name": "desk"}, headers=KEY)
        )
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while rows(settings.database_url, waiting) == [(0,)]:
            assert not second.done()
            await asyncio.sleep(0.01)
        assert not second.done()
        first.commit()
    assert (await second).status_code == 422
    assert rows(settings.database_url, "SELECT count(*) FROM consumers") == [(0,)]


async def test_a_request_whose_answer_was_lost_is_not_carried_out_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("control_plane.app.ANSWERED_WITHIN_SECONDS", 0)
    app = create_app(settings)
    async with AsyncTestClient(app) as client:
        made = await client.post("/v1/consumers", json={"name": "desk"}, headers=KEY)
        rows(
            settings.database_url,
            "UPDATE idempotency_keys SET status = NULL, headers = NULL, body = NULL",
        )
        lost = await client.post("/v1/consumers", json={"name": "desk"}, headers=KEY)
        assert lost.status_code == 409
        assert lost.json()["type"] == "urn:dds:problem:idempotency-key-in-use"
        assert made.headers["x-request-id"] in lost.json()["detail"]
        assert lost.headers["retry-after"] == "1"


async def test_one_repetition_waits_for_an_answer_and_others_are_told_at_once(
    pair: tuple[httpx.AsyncClient, httpx.AsyncClient],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, _ = pair

    async def post(key: str = "6f1c") -> httpx.Response:
        body = {"name": f"desk-{key}"}
        return await client.post("/v1/consumers", json=body, headers={HEADER: key})

    for key in ("6f1c", "other"):
        assert (await post(key)).status_code == 201
    rows(
        settings.database_url,
        "UPDATE idempotency_keys SET status = NULL, headers = NULL, body = NULL",
    )
    monkeypatch.setattr("control_plane.idempotency.middleware.MOST_WAITING", 1)
    waiting = {asyncio.create_task(post()) for _ in range(4)}
    while len(waiting) > 1:
        told, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for answer in told:
            assert answer.result().status_code == 409
            assert answer.result().headers["retry-after"] == "1"
    # Nor do more than some wait in all.
    assert (await post("other")).status_code == 409
    rows(
        settings.database_url,
        "UPDATE idempotency_keys SET status = 201, headers = '[]', body = 'kept'",
    )
    assert (await waiting.pop()).content == b"kept"


async def test_a_key_is_free_when_nothing_came_of_a_shared_transformation(client: Client) -> None:
    await client.post("/v1/consumers", json={"name": "desk"})
    shared = {"name": "mids", "transformation": {"compute": {"mid": "(bid_price+ask_price)/2"}}}
    assert (await client.post("/v1/transformations", json=shared)).status_code == 201
    body = {"consumer": "desk", "name": "a", "shared_transformation": "mids@1"}
    for _ in range(2):
        down = await client.post("/v1/subscriptions", json=body, headers=KEY)
        assert down.status_code == 503


async def test_a_key_holds_for_a_day_and_is_forgotten_then(
    client: Client, settings: Settings
) -> None:
    def age(hours: int) -> None:
        rows(
            settings.database_url,
            f"UPDATE idempotency_keys SET created_at = now() - interval '{hours} hours'",
        )

    await client.post("/v1/consumers", json={"name": "a"}, headers=KEY)
    await client.post("/v1/consumers", json={"name": "b"}, headers={HEADER: "b"})
    age(23)
    again = await client.post("/v1/consumers", json={"name": "a"}, headers=KEY)
    assert again.headers["idempotency-replayed"] == "true"
    age(25)
    # Taken over by a new request, whose answer also removes what else is old.
    new = await client.post("/v1/consumers", json={"name": "c"}, headers=KEY)
    assert new.status_code == 201
    left = "SELECT key, status FROM idempotency_keys"
    assert rows(settings.database_url, left) == [("6f1c", 201)]


async def test_keys_that_are_none_are_refused_and_large_bodies_are_not_read(
    client: Client,
) -> None:
    for key in (b"", b"a b", b"x" * 256, "ä".encode()):
        refused = await client.post(
            "/v1/consumers", json={"name": "a"}, headers={HEADER.encode(): key}
        )
        assert refused.status_code == 422, key
        assert refused.json()["errors"][0]["pointer"] == f"header:{HEADER}"
    twice = [(HEADER, "a"), (HEADER, "b")]
    assert (await client.post("/v1/consumers", json={}, headers=twice)).status_code == 422
    large = await client.post("/v1/consumers", content=b"x" * (MAX_BODY_BYTES + 1), headers=KEY)
    assert large.status_code == 413
    # Where nothing is changed a key means nothing.
    assert (await client.get("/v1/consumers", headers=KEY)).status_code == 200


async def test_a_body_in_many_pieces_is_read_into_one() -> None:
    messages: list[Any] = [
        {"type": "http.request", "body": b"ab", "more_body": True} for _ in range(3)
    ]
    messages += [{"type": "http.request", "body": b"c"}, {"type": "http.disconnect"}]

    async def receive() -> Any:
        return messages.pop(0)

    body, again = await _read(receive, 7)
    assert body == b"abababc"
    assert [await again(), await again()] == [
        {"type": "http.request", "body": body, "more_body": False},
        {"type": "http.disconnect"},
    ]
    messages += [{"type": "http.request", "body": b"ab", "more_body": True}] * 3
    body, again = await _read(receive, 3)
    assert body is None
    assert await again() == {"type": "http.request", "body": b"abab", "more_body": True}
    assert len(messages) == 1


async def test_no_stored_answer_is_given_while_revocations_are_uncertain(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = ANYBODY

    async def admit(_scope: Any) -> Caller:
        return caller

    monkeypatch.setattr("control_plane.app.admit_anybody", admit)
    async with AsyncTestClient(create_app(settings)) as client:
        made = await client.post("/v1/consumers", json={"name": "desk"}, headers=KEY)
        assert made.status_code == 201
        caller = replace(ANYBODY, certain=False)
        again = await client.post("/v1/consumers", json={"name": "desk"}, headers=KEY)
        assert again.status_code == 503


async def test_keys_are_each_callers_own_and_no_answer_with_a_secret_is_kept(
    settings: Settings, tmp_path: Path
) -> None:
    safe = secured(settings, tmp_path)
    tokens = Tokens(safe)
    async with AsyncTestClient(create_app(safe)) as client:
        for name in ("ann", "bob"):
            headers = {**tokens.of(Role.PLATFORM, name), **KEY}
            made = await client.post("/v1/consumers", json={"name": name}, headers=headers)
            assert made.status_code == 201
        refused = await client.post("/v1/tokens", json={}, headers=headers | {HEADER: "t"})
        assert refused.status_code == 422
        assert rows(safe.database_url, "SELECT count(*) FROM tokens") == [(0,)]
        assert (await client.post("/v1/consumers", json={}, headers=KEY)).status_code == 401
        described = (await client.get("/schema/openapi.json", headers=headers)).json()
    taking = {
        operation["operationId"]: operation["responses"]
        for methods in described["paths"].values()
        for operation in methods.values()
        if any(parameter["name"] == HEADER for parameter in operation.get("parameters", []))
    }
    assert all({"409", "422"} <= set(answers) for answers in taking.values())
    assert set(taking) == {
        "createConsumer",
        "updateConsumer",
        "createSubscription",
        "createSubscriptions",
        "updateSubscription",
        "pauseSubscription",
        "resumeSubscription",
        "createReferenceTable",
        "updateReferenceTableRows",
        "createInstrumentSet",
        "createTransformation",
        "updateInstrumentSet",
        "createPublisher",
        "updatePublisher",
        "createRule",
        "updateRule",
        "reorderRules",
        "rollBackToPlan",
        "resendDeadLetters",
        "restartFunction",
        "redeployFunction",
        "resendDeadLetter",
        "revokeTokens",
    }


async def test_rows_of_a_reference_table_are_added_once_and_their_key_comes_with_them(
    client: Client, settings: Settings
) -> None:
    """The route reads the table before it changes it: that must not use the key up."""
    columns = [{"name": "instrument", "type": "text"}, {"name": "lot", "type": "integer"}]
    table = {"name": "masters", "columns": columns, "key": ["instrument"]}
    assert (await client.post("/v1/reference-tables", json=table)).status_code == 201
    path = "/v1/reference-tables/masters/rows"
    kept = "SELECT status FROM idempotency_keys"
    refused = await client.patch(path, json=[{"instrument": "A", "lot": "many"}], headers=KEY)
    assert refused.status_code == 422
    assert "lot" in refused.json()["detail"]
    stale = {**KEY, "If-Match": '"7"'}
    assert (await client.patch(path, json=[{"instrument": "A"}], headers=stale)).status_code == 412
    assert rows(settings.database_url, kept) == []
    first = await client.patch(path, json=[{"instrument": "A", "lot": 1}], headers=KEY)
    assert (first.status_code, first.json()["version"]) == (200, 2)
    assert rows(settings.database_url, kept) == [(200,)]
    other = await client.patch(path, json=[{"instrument": "A", "lot": 2}])
    assert other.json()["version"] == 3
    again = await client.patch(path, json=[{"instrument": "A", "lot": 1}], headers=KEY)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.content == first.content
    assert (await client.get("/v1/reference-tables/masters")).json()["version"] == 3
    # A whole replacement is a request of its own each time.
    assert (await client.put(path, json=[], headers=KEY)).json()["version"] == 4
