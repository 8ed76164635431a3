"""Entitlements over HTTP, against a real PostgreSQL; what the broker is told is in `test_moves`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar.testing import AsyncTestClient

from control_plane.app import create_app
from control_plane.settings import Settings

Client = AsyncTestClient[Any]

LISTS = ("venues", "kinds", "sources", "instruments", "instrument_sets")
UNBOUND = dict.fromkeys((*LISTS, "minimum_delay_seconds", "maximum_rate"))


async def _broker_is_there() -> None:
    return


def application(settings: Settings) -> Client:
    """The whole application; what it stores waits for a broker that never comes."""
    app = create_app(settings)
    app.state.control_plane.subscriptions._require_broker = _broker_is_there
    return AsyncTestClient(app, raise_server_exceptions=False)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Client]:
    async with application(settings) as client:
        yield client


async def register(client: Client, name: str = "desk", **members: Any) -> dict[str, Any]:
    answer = await client.post("/v1/consumers", json={"name": name, **members})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def change(client: Client, entitlements: dict[str, Any], name: str = "desk") -> Any:
    return await client.patch(f"/v1/consumers/{name}", json={"entitlements": entitlements})


async def subscribe(client: Client, name: str, *, consumer: str = "desk", **members: Any) -> Any:
    body = {"consumer": consumer, "name": name, **members}
    return await client.post("/v1/subscriptions", json=body)


async def subscription(client: Client, made: dict[str, Any]) -> dict[str, Any]:
    return dict((await client.get(f"/v1/subscriptions/{made['id']}")).json())


async def test_what_is_given_is_kept_and_changed_bound_by_bound(client: Client) -> None:
    made = await register(client, entitlements={"venues": ["XNYS", "XNAS"], "kinds": ["trade"]})
    assert made["entitlements"] == UNBOUND | {"venues": ["XNAS", "XNYS"], "kinds": ["trade"]}
    changed = await change(client, {"venues": ["XNAS"], "sources": ["feed"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] == '"2"'
    want = UNBOUND | {"venues": ["XNAS"], "kinds": ["trade"], "sources": ["feed"]}
    assert changed.json()["entitlements"] == want
    lifted = await change(client, {"kinds": None, "instruments": []})
    want |= {"kinds": None, "instruments": []}
    assert lifted.json()["entitlements"] == want
    other = await client.patch("/v1/consumers/desk", json={"owner": "us"})
    assert other.json()["entitlements"] == want
    same = await change(client, {"venues": ["XNAS", "XNAS"]})
    assert same.headers["etag"] == other.headers["etag"]
    listed = (await client.get("/v1/consumers")).json()["items"]
    assert [item["entitlements"] for item in listed] == [want]


async def test_what_is_no_entitlement_is_refused(client: Client) -> None:
    for bad in (
        {"venues": ["nasdaq"]},
        {"kinds": ["order"]},
        {"venue": ["XNAS"]},
        {"sources": "feed"},
        {"instruments": [""]},
        [],
    ):
        for answer in (
            await client.post("/v1/consumers", json={"name": "new", "entitlements": bad}),
            await client.patch("/v1/consumers/new", json={"entitlements": bad}),
        ):
            assert answer.status_code == 400, bad
    assert (await client.get("/v1/consumers/new")).status_code == 404


async def test_a_service_entitles_to_nothing_unless_it_is_told_otherwise(
    settings: Settings,
) -> None:
    assert Settings.model_fields["default_entitlements"].default == "nothing"
    strict = settings.model_copy(update={"default_entitlements": "nothing"})
    async with application(strict) as client:
        made = await register(client)
        assert made["entitlements"] == UNBOUND | {name: [] for name in LISTS}
        refused = await subscribe(client, "all")
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "/filter"
        await change(client, dict(UNBOUND))
        assert (await subscribe(client, "all")).status_code == 201
        explicit = await register(client, "other", entitlements={})
        assert explicit["entitlements"] == UNBOUND


async def test_an_effective_filter_is_the_filter_and_the_entitlements(client: Client) -> None:
    await register(client, entitlements={"venues": ["XNAS", "XNYS"]})
    await register(client, "other", entitlements={"venues": ["XNAS"]})
    one = (await subscribe(client, "one", filter="price>1 or venue = 'XLON'")).json()
    assert one["canonical_filter"] == "price > 1 OR venue = 'XLON'"
    assert one["effective_filter"] == (
        "(price > 1 OR venue = 'XLON') AND venue IN ('XNAS', 'XNYS')"
    )
    assert one["receives_nothing"] is False
    assert one["draining"] == []
    plain = {"filter": "price > 1 AND venue = 'XNAS'"}
    two = (await subscribe(client, "two", **plain)).json()
    three = (await subscribe(client, "three", consumer="other", filter="price > 1")).json()
    assert two["effective_filter"] == three["effective_filter"] == plain["filter"]
    assert two["topic"] == three["topic"] != one["topic"]
    four = (await subscribe(client, "four", consumer="other")).json()
    assert (four["filter"], four["canonical_filter"]) == ("", "")
    assert four["effective_filter"] == "venue = 'XNAS'"


async def test_a_filter_outside_of_the_entitlements_is_refused(client: Client) -> None:
    await register(client, entitlements={"venues": ["XNAS"], "kinds": ["trade", "bar"]})
    for sql in ("venue = 'XLON'", "kind = 'quote'", "bid_price > 1", "venue > 'XNAT'"):
        refused = await subscribe(client, "bad", filter=sql)
        assert refused.status_code == 422, sql
        problem = refused.json()
        assert problem["type"] == "urn:dds:problem:invalid-request"
        (error,) = problem["errors"]
        assert error["pointer"] == "/filter"
        assert "entitlements of the consumer" in error["detail"]
        assert "/v1/consumers/desk" in error["hint"]
    assert (await client.get("/v1/subscriptions")).json()["items"] == []


async def test_a_change_gives_all_subscriptions_of_the_consumer_other_topics(
    client: Client,
) -> None:
    await register(client)
    await register(client, "other")
    bound = (await subscribe(client, "bound", filter="price > 1")).json()
    lost = (await subscribe(client, "lost", filter="venue = 'XLON'")).json()
    same = (await subscribe(client, "same", filter="venue = 'XNAS'")).json()
    foreign = (await subscribe(client, "foreign", consumer="other", filter="price > 1")).json()
    assert foreign["topic"] == bound["topic"]

    await change(client, {"venues": ["XNAS"]})
    after = await subscription(client, bound)
    assert after["effective_filter"] == "price > 1 AND venue = 'XNAS'"
    assert after["filter"] == "price > 1"
    assert after["plan"] > max(each["plan"] for each in (bound, lost, same, foreign))
    assert after["topic"] != bound["topic"]
    assert after["subscription_name"] == bound["subscription_name"]
    assert [(d["topic"], d["plan"]) for d in after["draining"]] == [(bound["topic"], after["plan"])]
    nothing = await subscription(client, lost)
    assert (nothing["receives_nothing"], nothing["effective_filter"]) == (True, "FALSE")
    assert nothing["plan"] == after["plan"]
    assert await subscription(client, same) == same
    assert await subscription(client, foreign) == foreign
    plan = (await client.get(f"/v1/plans/{after['plan']}")).json()
    assert {view["filter"] for view in plan["views"]} == {
        "price > 1",
        "price > 1 AND venue = 'XNAS'",
        "venue = 'XNAS'",
        "FALSE",
    }

    await change(client, {"venues": None})
    widened = [await subscription(client, each) for each in (bound, lost)]
    assert [each["topic"] for each in widened] == [bound["topic"], lost["topic"]]
    assert [each["receives_nothing"] for each in widened] == [False, False]


async def test_a_change_that_changes_no_view_makes_no_plan(client: Client) -> None:
    await register(client)
    made = (await subscribe(client, "one", filter="venue = 'XNAS'")).json()
    plans = (await client.get("/v1/plans")).json()["items"]
    await change(client, {"venues": ["XNAS", "XNYS"]})
    assert await subscription(client, made) == made
    assert (await client.get("/v1/plans")).json()["items"] == plans


async def test_a_change_of_what_was_not_read_last_changes_nothing(client: Client) -> None:
    await register(client)
    made = (await subscribe(client, "one")).json()
    refused = await client.patch(
        "/v1/consumers/desk",
        json={"entitlements": {"venues": ["XNAS"]}},
        headers={"If-Match": '"7"'},
    )
    assert refused.status_code == 412
    assert await subscription(client, made) == made


async def test_sets_of_entitlements_must_be_there_and_stay(client: Client) -> None:
    unknown = await client.post(
        "/v1/consumers", json={"name": "desk", "entitlements": {"instrument_sets": ["mine"]}}
    )
    assert unknown.status_code == 422
    assert unknown.json()["errors"][0]["pointer"] == "/entitlements/instrument_sets"
    await client.post("/v1/instrument-sets", json={"name": "mine", "instruments": ["A"]})
    await register(client, entitlements={"instrument_sets": ["mine"], "instruments": ["B"]})
    assert (await change(client, {"instrument_sets": ["none"]})).status_code == 422
    kept = await client.delete("/v1/instrument-sets/mine")
    assert kept.status_code == 409
    assert "Entitlements" in kept.json()["detail"]
    await change(client, {"instrument_sets": None})
    assert (await client.delete("/v1/instrument-sets/mine")).status_code == 204


async def test_what_a_set_holds_changes_without_the_subscription(client: Client) -> None:
    await client.post("/v1/instrument-sets", json={"name": "mine", "instruments": ["A"]})
    await register(client, entitlements={"instrument_sets": ["mine"]})
    made = (await subscribe(client, "one", filter="price > 1")).json()
    assert made["effective_filter"] == "instrument IN SET 'mine' AND price > 1"
    changed = (await client.patch("/v1/instrument-sets/mine", json={"add": ["B"]})).json()
    assert changed["plan"] == made["plan"] + 1
    assert await subscription(client, made) == made
    old = await subscribe(client, "old", start="earliest")
    assert old.status_code == 422
    assert old.json()["errors"][0]["pointer"] == "/start"


async def test_the_api_describes_entitlements_with_examples(client: Client) -> None:
    schemas = (await client.get("/schema/openapi.json")).json()["components"]["schemas"]
    text = str(schemas)
    assert "what DDS_DEFAULT_ENTITLEMENTS says" in text
    venues = next(schema for name, schema in schemas.items() if name.endswith("Entitlements"))[
        "properties"
    ]["venues"]
    assert "XNAS" in str(venues)
    assert "Nothing that the filter asks for" in text
