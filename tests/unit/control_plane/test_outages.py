"""Whatever is missing, the control plane starts, says so, and recovers by itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pulsar
import pytest
from litestar.testing import AsyncTestClient

from control_plane.app import create_app
from control_plane.settings import Settings

if TYPE_CHECKING:
    from conftest import Server

Client = AsyncTestClient[Any]


@pytest.fixture
def broker_client() -> type[Any]:
    """The real one, which finds nobody."""
    return pulsar.Client


async def test_a_missing_broker_is_named_and_nothing_is_stored(client: Client) -> None:
    assert (await client.get("/healthz")).status_code == 200
    ready = await client.get("/readyz")
    assert ready.status_code == 503
    assert ready.headers["retry-after"] == "2"
    assert ready.json()["missing"] == ["broker_admin", "broker_client"]
    await client.post("/v1/consumers", json={"name": "desk"})
    refused = await client.post("/v1/subscriptions", json={"consumer": "desk", "name": "all"})
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "2"
    assert refused.json()["type"] == "urn:dds:problem:broker-unavailable"
    assert (await client.get("/v1/subscriptions")).json()["items"] == []


async def test_a_bad_request_is_told_even_while_the_broker_is_down(client: Client) -> None:
    refused = await client.post(
        "/v1/subscriptions",
        json={
            "consumer": "desk",
            "name": "bad",
            "filter": "kind = 'trade' AND\n prce > 1",
            "transformation": {"select": ["price"]},
        },
    )
    assert refused.status_code == 422
    of_filter, of_transformation = refused.json()["errors"]
    assert of_filter["pointer"] == "/filter"
    assert (of_filter["position"], of_filter["line"], of_filter["column"]) == (20, 2, 2)
    assert "price" in of_filter["hint"]
    assert of_transformation["pointer"] == "/transformation"


async def test_a_bad_computed_column_is_told_with_its_place(client: Client) -> None:
    async def refused(**transformation: Any) -> tuple[int, list[dict[str, Any]]]:
        answer = await client.post(
            "/v1/subscriptions",
            json={"consumer": "desk", "name": "bad", "transformation": transformation},
        )
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, answer.json()["errors"]

    assert await refused(compute={"mid": "(bid_price +\n ask_prise) / 2"}) == (
        422,
        [
            {
                "pointer": "/transformation/compute/mid",
                "detail": "unknown column 'ask_prise'",
                "position": 14,
                "line": 2,
                "column": 2,
                "hint": "did you mean ask_price?",
            }
        ],
    )
    status, (problem,) = await refused(compute={"price": "1"})
    assert (status, problem["pointer"]) == (422, "/transformation")
    assert "a select without 'price'" in problem["hint"]
    status, (problem,) = await refused(mask=["epoch"])
    assert (status, problem["detail"]) == (422, "'epoch' may not be masked")
    status, (problem,) = await refused(compute={f"c{n}": "1" for n in range(33)})
    assert (status, problem["pointer"]) == (400, "/transformation/compute")


async def test_a_database_that_goes_away_and_comes_back(
    postgresql: Server, settings: Settings
) -> None:
    name = settings.database_url.split("?", 1)[0].rsplit("/", 1)[-1]
    async with AsyncTestClient(create_app(settings), raise_server_exceptions=False) as client:
        assert (await client.get("/v1/consumers")).status_code == 200
        postgresql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgresql.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        await asyncio.sleep(1.2)
        refused = await client.get("/v1/consumers")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "2"
        assert refused.json()["type"] == "urn:dds:problem:database-unavailable"
        assert "database" in (await client.get("/readyz")).json()["missing"]
        assert (await client.get("/metrics")).status_code == 200
        postgresql.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert (await client.get("/v1/consumers")).status_code == 200


async def test_a_database_that_is_not_migrated_is_told_apart(
    postgresql: Server, settings: Settings
) -> None:
    bare = settings.model_copy(update={"database_url": postgresql.create()})
    async with AsyncTestClient(create_app(bare), raise_server_exceptions=False) as client:
        ready = (await client.get("/readyz")).json()
        assert "migrations" in ready["missing"]
        assert "database" not in ready["missing"]
        assert "alembic" in ready["dependencies"]["migrations"]["detail"]
        refused = await client.get("/v1/consumers")
        assert refused.status_code == 503
        assert "alembic" in refused.json()["detail"]


async def test_the_api_describes_itself_without_the_internet(client: Client) -> None:
    described = await client.get("/schema/openapi.json")
    assert described.json()["openapi"].startswith("3.1")
    paths = described.json()["paths"]
    assert {"/v1/consumers", "/v1/subscriptions", "/v1/plans/current"} <= set(paths)
    assert (await client.get("/schema/openapi.yaml")).status_code == 200


async def test_requests_are_counted_by_route_not_by_path(client: Client) -> None:
    await client.get("/v1/consumers/one")
    await client.get("/v1/consumers/two")
    text = (await client.get("/metrics")).text
    assert (
        'dds_http_requests_total{method="GET",route="/v1/consumers/{key}",status="404"} 2.0' in text
    )
    assert 'dds_subscriptions{state="active"} 0.0' in text
    await client.request("FROBNICATE", "/v1/consumers/one")
    text = (await client.get("/metrics")).text
    assert 'dds_http_requests_total{method="other"' in text
    assert "FROBNICATE" not in text
