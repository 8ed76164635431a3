"""Consumers over HTTP, against a real PostgreSQL and with the broker down."""

from __future__ import annotations

from typing import Any

from litestar.testing import AsyncTestClient

Client = AsyncTestClient[Any]


async def test_a_consumer_is_registered_found_changed_and_deleted(client: Client) -> None:
    created = await client.post("/v1/consumers", json={"name": "desk", "owner": "us"})
    assert created.status_code == 201
    assert created.headers["location"] == f"/v1/consumers/{created.json()['id']}"
    by_name = await client.get("/v1/consumers/desk")
    assert by_name.json() == created.json()
    changed = await client.patch(
        "/v1/consumers/desk", json={"labels": {"tier": "1"}}, headers={"If-Match": '"1"'}
    )
    assert changed.json()["labels"] == {"tier": "1"}
    assert changed.json()["owner"] == "us"
    assert changed.headers["etag"] == '"2"'
    assert (await client.delete("/v1/consumers/desk")).status_code == 204
    assert (await client.get("/v1/consumers/desk")).status_code == 404
    again = await client.post("/v1/consumers", json={"name": "desk"})
    assert again.status_code == 201
    assert again.json()["id"] != created.json()["id"]


async def test_a_name_is_taken_once(client: Client) -> None:
    await client.post("/v1/consumers", json={"name": "desk"})
    refused = await client.post("/v1/consumers", json={"name": "desk"})
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:dds:problem:conflict"


async def test_a_change_of_what_was_not_read_last_is_refused(client: Client) -> None:
    await client.post("/v1/consumers", json={"name": "desk"})
    await client.patch("/v1/consumers/desk", json={"owner": "a"})
    refused = await client.patch(
        "/v1/consumers/desk", json={"owner": "b"}, headers={"If-Match": '"1"'}
    )
    assert refused.status_code == 412
    assert (await client.get("/v1/consumers/desk")).json()["owner"] == "a"


async def test_pages_hold_every_consumer_once(client: Client) -> None:
    for number in range(7):
        await client.post("/v1/consumers", json={"name": f"desk-{number}"})
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/consumers", params=query)).json()
        seen += [item["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"desk-{number}" for number in range(7)]


async def test_bad_requests_are_problems_that_name_the_member(client: Client) -> None:
    for body in ({}, {"name": "Not A Name"}, {"name": "desk", "owners": "x"}, [1]):
        refused = await client.post("/v1/consumers", json=body)
        assert refused.status_code == 400
        problem = refused.json()
        assert problem["instance"] == "/v1/consumers"
        assert problem["errors"]
    broken = await client.post("/v1/consumers", content=b'{"name":')
    assert broken.status_code == 400
    for path in ("/v1/consumers/a%00b", "/v1/consumers?name=%00"):
        assert (await client.get(path)).status_code == 400


async def test_every_answer_has_a_request_id_and_keeps_a_given_one(client: Client) -> None:
    given = await client.get("/v1/nothing", headers={"X-Request-ID": "mine-1"})
    assert given.status_code == 404
    assert given.headers["x-request-id"] == given.json()["request_id"] == "mine-1"
    made = await client.get("/healthz", headers={"X-Request-ID": "no spaces allowed"})
    assert made.headers["x-request-id"] not in ("", "no spaces allowed")
