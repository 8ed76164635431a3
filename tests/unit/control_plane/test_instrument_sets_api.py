"""Instrument sets over HTTP, against a real PostgreSQL and with the broker down."""

from __future__ import annotations

from typing import Any

import pytest
from litestar.testing import AsyncTestClient

from control_plane.app import MAX_BODY_BYTES

Client = AsyncTestClient[Any]
PATH = "/v1/instrument-sets"


async def make(client: Client, name: str, *instruments: str, **members: Any) -> dict[str, Any]:
    body = {"name": name, "instruments": list(instruments), **members}
    answer = await client.post(PATH, json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def test_a_set_is_made_found_changed_and_deleted(client: Client) -> None:
    made = await make(client, "sp500", "MSFT", "AAPL", "MSFT", description="large")
    assert made["instruments"] == ["AAPL", "MSFT"]
    assert (await client.get(f"{PATH}/sp500")).json() == made
    changed = await client.patch(
        f"{PATH}/{made['id']}",
        json={"add": ["NVDA"], "remove": ["MSFT", "none"]},
        headers={"If-Match": '"1"', "X-Request-ID": "the-cause"},
    )
    assert changed.status_code == 200
    assert changed.headers["etag"] == '"2"'
    assert changed.json()["instruments"] == ["AAPL", "NVDA"]
    assert changed.json()["description"] == "large"
    replaced = await client.patch(
        f"{PATH}/sp500", json={"instruments": ["IBM"], "add": ["GE"], "description": "few"}
    )
    assert replaced.json()["instruments"] == ["GE", "IBM"]
    assert (await client.delete(f"{PATH}/sp500")).status_code == 204
    assert (await client.get(f"{PATH}/sp500")).status_code == 404
    assert (await make(client, "sp500"))["id"] != made["id"]


async def test_every_change_is_a_version_with_its_cause(client: Client) -> None:
    await make(client, "mine", "A", "B")
    await client.patch(f"{PATH}/mine", json={"add": ["C"]}, headers={"X-Request-ID": "two"})
    unchanged = await client.patch(f"{PATH}/mine", json={"add": ["C"], "remove": ["Z"]})
    assert unchanged.json()["version"] == 2
    await client.patch(f"{PATH}/mine", json={"instruments": ["B"]}, headers={"X-Request-ID": "3"})
    page = (await client.get(f"{PATH}/mine/versions", params={"limit": 2})).json()
    assert [
        (v["version"], v["added"], v["removed"], v["correlation_id"], v["instrument_count"])
        for v in page["items"]
    ] == [(3, [], ["A", "C"], "3", 1), (2, ["C"], [], "two", 3)]
    rest = await client.get(f"{PATH}/mine/versions", params={"cursor": page["next_cursor"]})
    assert [v["version"] for v in rest.json()["items"]] == [1]
    assert rest.json()["next_cursor"] is None
    second = (await client.get(f"{PATH}/mine/versions/2")).json()
    assert second["instruments"] == ["A", "B", "C"]
    assert (await client.get(f"{PATH}/mine/versions/9")).status_code == 404


async def test_pages_hold_every_set_once_without_its_instruments(client: Client) -> None:
    for number in range(5):
        await make(client, f"s{number}", *"AB"[: number % 3])
    first = (await client.get(PATH, params={"limit": 3})).json()
    second = (await client.get(PATH, params={"cursor": first["next_cursor"]})).json()
    items = first["items"] + second["items"]
    assert [item["name"] for item in items] == [f"s{n}" for n in range(5)]
    assert [item["instrument_count"] for item in items] == [0, 1, 2, 0, 1]
    assert "instruments" not in items[0]


async def test_what_contradicts_is_refused(client: Client) -> None:
    await make(client, "mine", "A")
    assert (await client.post(PATH, json={"name": "mine", "instruments": []})).status_code == 409
    stale = await client.patch(f"{PATH}/mine", json={"add": ["B"]}, headers={"If-Match": '"7"'})
    assert stale.status_code == 412
    assert (await client.get(f"{PATH}/none")).status_code == 404
    cursor = await client.get(f"{PATH}/mine/versions", params={"cursor": "x"})
    assert cursor.status_code == 422


@pytest.mark.parametrize("body", [{"instruments": [""]}, {"instruments": ["a\0"]}, {"x": 1}])
async def test_what_is_no_set_is_refused(client: Client, body: dict[str, Any]) -> None:
    answer = await client.post(PATH, json={"name": "mine", "instruments": [], **body})
    assert answer.status_code == 400


async def test_a_set_has_a_bound(client: Client) -> None:
    await make(client, "mine", *(f"A{n}" for n in range(6_000)))
    more = [f"B{n}" for n in range(6_000)]
    refused = await client.patch(f"{PATH}/mine", json={"add": more})
    assert refused.status_code == 422
    assert "at most 10000" in refused.json()["detail"]
    assert len(str(more)) < MAX_BODY_BYTES
