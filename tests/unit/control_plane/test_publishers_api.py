"""Publishers over HTTP, against a real PostgreSQL, with their tokens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from access import Tokens, secured
from litestar.testing import AsyncTestClient

from control_plane.app import create_app
from control_plane.database import Database, Lock, lock
from control_plane.settings import Settings

Client = AsyncTestClient[Any]
PATH = "/v1/publishers"


async def test_a_publisher_is_registered_changed_listed_and_deleted(client: Client) -> None:
    body = {"name": "feed", "region": "eu", "sources": ["b", "a", "a"], "kinds": ["trade"]}
    made = await client.post(PATH, json=body)
    assert made.status_code == 201, made.text
    told = made.json()
    assert (told["sources"], told["venues"], told["kinds"]) == (["a", "b"], None, ["trade"])
    for key in (told["id"], "feed"):
        assert (await client.get(f"{PATH}/{key}")).json() == told
    assert (await client.post(PATH, json=body)).status_code == 409
    foreign = await client.post(PATH, json={"name": "other", "sources": ["a"]})
    assert foreign.status_code == 409
    assert "'feed'" in foreign.json()["detail"]
    assert (await client.post(PATH, json={"name": "other"})).status_code == 201
    stale = await client.patch(f"{PATH}/feed", json={}, headers={"If-Match": '"2"'})
    assert stale.status_code == 412
    changed = await client.patch(f"{PATH}/feed", json={"venues": ["XETR"], "contact": "us"})
    assert (changed.json()["venues"], changed.headers["etag"]) == (["XETR"], '"2"')
    taken = await client.patch(f"{PATH}/other", json={"sources": ["b"]})
    assert taken.status_code == 409
    listed = (await client.get(PATH)).json()["items"]
    assert [item["name"] for item in listed] == ["feed", "other"]
    assert (await client.delete(f"{PATH}/feed")).status_code == 204
    assert (await client.get(f"{PATH}/feed")).status_code == 404
    freed = await client.patch(f"{PATH}/other", json={"sources": ["b"]})
    assert freed.json()["sources"] == ["b"]


async def test_nobody_is_registered_whose_name_is_no_publishers(client: Client) -> None:
    for name in ("functions", "broker", "platform", "c0123456789abcdef"):
        refused = await client.post(PATH, json={"name": name})
        assert refused.status_code == 422, name
        assert refused.json()["errors"][0]["pointer"] == "/name"


async def test_a_suspension_waits_for_no_plan(client: Client, database: Database) -> None:
    """One that moves many subscriptions is made for minutes."""
    assert (await client.post(PATH, json={"name": "feed"})).status_code == 201
    async with database.transaction() as session:
        await lock(session, Lock.PLAN_SEQUENCE)
        async with asyncio.timeout(120):
            ended = await client.patch(f"{PATH}/feed", json={"suspended": True})
    assert ended.json()["suspended"]


async def test_who_is_suspended_or_deleted_has_no_token_any_more(
    settings: Settings, tmp_path: Path
) -> None:
    settings = secured(settings, tmp_path)
    platform = Tokens(settings).platform()
    async with AsyncTestClient(create_app(settings), raise_server_exceptions=False) as client:

        async def issue(name: str) -> Any:
            body = {"role": "publisher", "subject": name}
            return await client.post("/v1/tokens", json=body, headers=platform)

        async def revoked() -> set[str]:
            items = (await client.get("/v1/tokens", headers=platform)).json()["items"]
            return {item["subject"] for item in items if item["revoked"]}

        for name in ("feed", "gone"):
            await client.post(PATH, json={"name": name}, headers=platform)
            assert (await issue(name)).status_code == 201
        # Who is not registered may publish, as before.
        assert (await issue("unknown")).status_code == 201
        await client.patch(f"{PATH}/feed", json={"suspended": True}, headers=platform)
        assert await revoked() == {"feed"}
        assert (await issue("feed")).status_code == 409
        await client.patch(f"{PATH}/feed", json={"suspended": False}, headers=platform)
        assert (await issue("feed")).status_code == 201
        await client.delete(f"{PATH}/gone", headers=platform)
        assert {"feed", "gone"} <= await revoked()
