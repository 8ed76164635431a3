"""Routing rules over HTTP, against a real PostgreSQL; the first rule that matches decides."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from access import Tokens, secured
from litestar.testing import AsyncTestClient

from control_plane.app import create_app
from control_plane.security.roles import Role
from control_plane.settings import Settings

Client = AsyncTestClient[Any]
RULES = "/v1/rules"


async def _broker_is_there() -> None:
    return


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[Client]:
    """The whole application; what it stores waits for a broker that never comes."""
    app = create_app(settings)
    app.state.control_plane.subscriptions._require_broker = _broker_is_there
    async with AsyncTestClient(app, raise_server_exceptions=False) as client:
        yield client


async def register(client: Client, name: str, **members: Any) -> dict[str, Any]:
    answer = await client.post("/v1/consumers", json={"name": name, **members})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def subscribe(client: Client, consumer: str, sql: str = "", name: str = "s") -> Any:
    body = {"consumer": consumer, "name": name, "filter": sql}
    return await client.post("/v1/subscriptions", json=body)


async def rule(client: Client, name: str, effect: str = "deny", **members: Any) -> dict[str, Any]:
    answer = await client.post(RULES, json={"name": name, "effect": effect, **members})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def effective(client: Client, made: Any) -> str:
    answer = await client.get(f"/v1/subscriptions/{made.json()['id']}")
    return str(answer.json()["effective_filter"])


async def names(client: Client) -> list[str]:
    items = (await client.get(RULES)).json()["items"]
    assert [item["position"] for item in items] == list(range(1, len(items) + 1))
    return [item["name"] for item in items]


async def newest_plan(client: Client) -> int:
    return int((await client.get("/v1/plans")).json()["items"][0]["number"])


async def test_a_residency_rule_bounds_who_is_elsewhere_and_nobody_else(client: Client) -> None:
    await register(client, "frankfurt", region="eu")
    await register(client, "new-york", region="us")
    await register(client, "nowhere")
    made = {name: await subscribe(client, name) for name in ("frankfurt", "new-york", "nowhere")}
    before = await newest_plan(client)
    home = await rule(client, "xetra", when="venue = 'XETR'", consumers={"regions_except": ["eu"]})
    assert home["plan"] == await newest_plan(client) == before + 1
    assert await effective(client, made["frankfurt"]) == ""
    for name in ("new-york", "nowhere"):
        assert await effective(client, made[name]) == "venue <> 'XETR'"
    # Who comes later is bound, too, and who moves to another region.
    late = await register(client, "late", region="asia")
    assert await effective(client, await subscribe(client, late["name"])) == "venue <> 'XETR'"
    await client.patch("/v1/consumers/new-york", json={"region": "eu"})
    assert await effective(client, made["new-york"]) == ""
    refused = await subscribe(client, "nowhere", "venue = 'XETR'", "x")
    assert refused.status_code == 422
    assert "routing rules" in refused.json()["errors"][0]["detail"]


async def test_changing_disabling_ordering_and_deleting_make_one_plan_each(client: Client) -> None:
    await register(client, "desk", workflow="market-prediction")
    made = await subscribe(client, "desk")
    await rule(client, "no-bars", when="kind = 'bar'")
    await rule(
        client,
        "xnas",
        "allow",
        when="venue = 'XNAS'",
        consumers={"workflows": ["market-prediction"]},
    )
    assert await effective(client, made) == "kind <> 'bar'"
    plan = await newest_plan(client)

    async def after(answer: Any, want: str) -> Any:
        nonlocal plan
        assert answer.status_code < 300, answer.text
        assert await effective(client, made) == want
        assert await newest_plan(client) == plan + 1
        plan += 1
        return answer

    ordered = await after(
        await client.post(f"{RULES}:reorder", json={"rules": ["xnas", "no-bars"]}),
        "kind <> 'bar' OR venue = 'XNAS'",
    )
    assert [each["name"] for each in ordered.json()["rules"]] == ["xnas", "no-bars"]
    assert ordered.json()["plan"] == plan
    off = await after(await client.patch(f"{RULES}/xnas", json={"enabled": False}), "kind <> 'bar'")
    assert (off.json()["enabled"], off.json()["plan"]) == (False, plan)
    await after(
        await client.patch(f"{RULES}/xnas", json={"enabled": True}),
        "kind <> 'bar' OR venue = 'XNAS'",
    )
    await after(
        await client.patch(f"{RULES}/xnas", json={"when": "venue IN ('XNAS', 'XNYS')"}),
        "kind <> 'bar' OR venue IN ('XNAS', 'XNYS')",
    )
    await after(await client.patch(f"{RULES}/xnas", json={"position": 2}), "kind <> 'bar'")
    await after(await client.delete(f"{RULES}/no-bars"), "")
    assert await names(client) == ["xnas"]
    # What makes no difference to anybody makes no plan.
    same = await client.patch(f"{RULES}/xnas", json={"description": "for people"})
    assert (same.json()["plan"], await newest_plan(client)) == (plan, plan)
    history = (await client.get(f"/v1/subscriptions/{made.json()['id']}/history")).json()["items"]
    moved = [item for item in history if item["type"] == "subscription.moved"]
    assert {item["data"]["reason"] for item in moved} == {"rules"}


async def test_an_order_made_before_another_one_is_refused_where_that_is_asked_for(
    client: Client,
) -> None:
    for name in ("a", "b", "c"):
        await rule(client, name, when=f"venue = '{name}'")
    reorder = f"{RULES}:reorder"
    seen = (await client.get(RULES)).headers["ETag"]
    assert (await client.get(RULES, params={"limit": 1})).headers["ETag"] == seen
    # What a rule says is no matter of their order.
    await client.patch(f"{RULES}/a", json={"description": "first"})
    made = await client.post(reorder, json={"rules": ["c", "b", "a"]}, headers={"If-Match": seen})
    assert made.status_code == 200, made.text
    assert made.headers["ETag"] != seen
    late = await client.post(reorder, json={"rules": ["b", "a", "c"]}, headers={"If-Match": seen})
    assert late.status_code == 412
    now = (await client.get(RULES)).headers["ETag"]
    assert now == made.headers["ETag"]
    assert now in late.json()["detail"]
    assert await names(client) == ["c", "b", "a"]
    again = await client.post(reorder, json={"rules": ["b", "a", "c"]}, headers={"If-Match": now})
    assert again.status_code == 200
    assert await names(client) == ["b", "a", "c"]


async def test_rules_keep_their_order_in_pages_and_whoever_makes_room_keeps_its_etag(
    client: Client,
) -> None:
    for name in ("a", "b", "c"):
        await rule(client, name, when=f"instrument = '{name}'")
    first = await rule(client, "first", when="instrument = 'x'", position=1)
    assert first["position"] == 1
    assert await names(client) == ["first", "a", "b", "c"]
    page = (await client.get(RULES, params={"limit": 2})).json()
    rest = (await client.get(RULES, params={"cursor": page["next_cursor"]})).json()
    assert [item["name"] for item in page["items"] + rest["items"]] == ["first", "a", "b", "c"]
    assert rest["next_cursor"] is None
    tags = {name: (await client.get(f"{RULES}/{name}")).headers["etag"] for name in "abc"}
    assert set(tags.values()) == {'"1"'}
    stale = await client.patch(f"{RULES}/a", json={"position": 4}, headers={"If-Match": '"7"'})
    assert stale.status_code == 412
    moved = await client.patch(f"{RULES}/a", json={"position": 4}, headers={"If-Match": '"1"'})
    assert (moved.json()["position"], moved.headers["etag"]) == (4, '"2"')
    assert await names(client) == ["first", "b", "c", "a"]
    assert (await client.get(f"{RULES}/b")).headers["etag"] == '"1"'
    for bad in (["b", "c", "a"], ["first", "b", "c", "a", "a"], ["first", "b", "c", "d"]):
        refused = await client.post(f"{RULES}:reorder", json={"rules": bad})
        assert refused.status_code == 422, bad
        assert all(error["pointer"].startswith("/rules") for error in refused.json()["errors"])
    assert await names(client) == ["first", "b", "c", "a"]
    assert (await client.get(f"{RULES}/none")).status_code == 404
    assert (await client.post(RULES, json={"name": "a", "effect": "deny"})).status_code == 409


@pytest.mark.parametrize(
    ("members", "pointer", "position"),
    [
        ({"when": "kind = 'trade' AND prise > 1"}, "/when", 19),
        ({"when": "venue > 1"}, "/when", 0),
        ({"when": "venue = 'A' AND venue = 'B'"}, "/when", 16),
        ({"when": "venue = 'A' OR instrument IN SET 'none'"}, "/when", 15),
        ({"consumers": {"regions": ["eu"], "regions_except": ["eu"]}}, "/consumers/regions", None),
        ({"origin_regions": ["eu"]}, "/origin_regions", None),
        ({"when": "venue = 'XNAS'", "position": 2}, "/position", None),
    ],
)
async def test_what_cannot_be_or_never_matches_is_refused_with_its_place(
    client: Client, members: dict[str, Any], pointer: str, position: int | None
) -> None:
    await rule(client, "everything", "deny")
    refused = await client.post(
        RULES, json={"name": "bad", "effect": "deny", "position": 1} | members
    )
    assert refused.status_code == 422, refused.text
    (error,) = refused.json()["errors"]
    assert (error["pointer"], error.get("position")) == (pointer, position)
    assert error["hint"]
    assert await names(client) == ["everything"]


async def test_a_rule_ahead_of_others_tells_that_they_decide_nothing(client: Client) -> None:
    await rule(client, "late", when="venue = 'XNAS'")
    await rule(client, "brake", position=1)
    items = (await client.get(RULES)).json()["items"]
    assert [(item["name"], item["shadowed_by"]) for item in items] == [
        ("brake", None),
        ("late", "brake"),
    ]


async def test_a_rule_that_makes_a_condition_too_expensive_names_the_subscription(
    client: Client,
) -> None:
    await register(client, "desk")
    costly = " OR ".join(f"instrument LIKE '%{number}%'" for number in range(100))
    made = await subscribe(client, "desk", costly)
    assert made.status_code == 201, made.text
    likes = " OR ".join(f"venue LIKE '%{number}%'" for number in range(60))
    refused = await client.post(RULES, json={"name": "likes", "effect": "deny", "when": likes})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert made.json()["id"] in error["detail"]
    assert await effective(client, made) == made.json()["effective_filter"]
    assert await names(client) == []
    # Where it comes first, it is the subscription that is refused.
    assert (await client.delete(f"/v1/subscriptions/{made.json()['id']}")).status_code == 204
    await rule(client, "likes", when=likes)
    again = await subscribe(client, "desk", costly)
    assert again.status_code == 422
    assert "routing rules" in again.json()["errors"][0]["detail"]


async def test_rules_that_turn_too_often_are_refused(client: Client) -> None:
    for number in range(16):
        await rule(client, f"r{number}", ("deny", "allow")[number % 2], when=f"venue = 'V{number}'")
    refused = await client.post(
        RULES, json={"name": "more", "effect": "deny", "when": "venue = 'X'"}
    )
    assert refused.status_code == 422
    assert "turn" in refused.json()["errors"][0]["detail"]
    await rule(client, "more", "allow", when="venue = 'X'")


async def test_origins_are_the_sources_of_publishers_and_follow_them(client: Client) -> None:
    await register(client, "desk", region="us")
    made = await subscribe(client, "desk")
    body = {"name": "xetra", "region": "eu", "sources": ["feed-b", "feed-a"]}
    assert (await client.post("/v1/publishers", json=body)).status_code == 201
    await rule(client, "home", origin_regions=["eu"], consumers={"regions": ["us"]})
    assert await effective(client, made) == "NOT (source IN ('feed-a', 'feed-b'))"
    await client.patch("/v1/publishers/xetra", json={"sources": ["feed-a"]})
    assert await effective(client, made) == "source <> 'feed-a'"
    await client.patch(
        f"{RULES}/home", json={"origin_regions": None, "origin_regions_except": ["eu"]}
    )
    assert await effective(client, made) == "source = 'feed-a'"
    # What a rule keeps in a region does not leave it because somebody is deleted.
    refused = await client.delete("/v1/publishers/xetra")
    assert (refused.status_code, "'home'" in refused.json()["detail"]) == (409, True)
    assert await effective(client, made) == "source = 'feed-a'"
    await client.patch("/v1/publishers/xetra", json={"region": ""})
    assert await effective(client, made) == "FALSE"
    assert (await client.delete("/v1/publishers/xetra")).status_code == 204


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_consumer_takes_no_label_by_which_a_rule_selects(
    settings: Settings, tmp_path: Path, enabled: bool
) -> None:
    """Neither before the rule is enabled: it would have what that allows."""
    safe = secured(settings, tmp_path)
    tokens = Tokens(safe)
    platform = tokens.platform()
    async with AsyncTestClient(create_app(safe), raise_server_exceptions=False) as client:
        made = await client.post("/v1/consumers", json={"name": "desk"}, headers=platform)
        own = tokens.of(Role.CONSUMER, made.json()["id"])
        body = {"name": "gold", "effect": "allow", "enabled": enabled}
        selected = {"consumers": {"labels": {"tier": "gold"}}}
        answer = await client.post(RULES, json=body | selected, headers=platform)
        assert answer.status_code == 201, answer.text
        labels = [({"tier": "gold"}, 403), ({"tier": "silver"}, 200)]
        for given, status in labels:
            changed = await client.patch("/v1/consumers/desk", json={"labels": given}, headers=own)
            assert changed.status_code == status, changed.text


async def test_a_set_that_a_rule_names_stays_and_old_events_are_not_for_it(client: Client) -> None:
    await register(client, "desk")
    await client.post("/v1/instrument-sets", json={"name": "mine", "instruments": ["A"]})
    await rule(client, "not-mine", when="instrument IN SET 'mine'")
    assert (await client.delete("/v1/instrument-sets/mine")).status_code == 409
    body = {"consumer": "desk", "name": "s", "start": "earliest"}
    early = await client.post("/v1/subscriptions", json=body)
    assert early.status_code == 422
    assert early.json()["errors"][0]["pointer"] == "/start"
    assert await effective(client, await subscribe(client, "desk")) == (
        "NOT (instrument IN SET 'mine')"
    )
    await client.delete(f"{RULES}/not-mine")
    assert (await client.get(f"{RULES}/not-mine")).status_code == 404


@pytest.mark.parametrize("rules", [[0], ["x"] * 10_000, "x", [None, "x"]])
async def test_an_order_that_is_none_is_refused(client: Client, rules: Any) -> None:
    """`rules` is also what a part of the application is called."""
    refused = await client.post(f"{RULES}:reorder", json={"rules": rules})
    assert refused.status_code == 400, refused.text
    (problem,) = refused.json()["errors"]
    assert "rules" in problem["pointer"] + problem["detail"]


TRADES = {"when": "kind = 'trade'", "priority": 3}


async def delivery(client: Client, made: dict[str, Any]) -> tuple[int, int]:
    """The priority that a subscription has, and the one that it asks for."""
    answer = (await client.get(f"/v1/subscriptions/{made['id']}")).json()
    held, asked = (answer[name].get("priority", 1) for name in ("delivery", "asked_delivery"))
    return held, asked


async def test_the_first_rule_of_which_every_event_of_a_view_is_gives_it_a_priority(
    client: Client,
) -> None:
    await register(client, "desk", workflow="market-prediction", region="eu")
    asked = {"consumer": "desk", "name": "own", "filter": "kind = 'trade' AND price > 1"}
    answer = await client.post("/v1/subscriptions", json=asked | {"delivery": {"priority": 2}})
    own = answer.json()
    wide = (await subscribe(client, "desk", "price > 1", "wide")).json()
    before = await newest_plan(client)
    made = await rule(client, "trades", "prioritize", **TRADES)
    assert (made["effect"], made["priority"], made["plan"]) == ("prioritize", 3, before + 1)
    # What was asked for is kept, and beaten; not all events of the other are trades.
    assert await delivery(client, own) == (3, 2)
    assert await delivery(client, wide) == (1, 1)
    assert await effective(client, answer) == own["effective_filter"]
    history = (await client.get(f"/v1/subscriptions/{own['id']}/history")).json()["items"]
    assert [item["data"]["reason"] for item in history if item["type"] == "subscription.moved"] == [
        "rules"
    ]
    # Nothing is allowed by it: the rule behind it decides, and bounds the view of the other.
    await rule(client, "no-bars", when="kind <> 'trade'")
    assert await delivery(client, wide) == (3, 1)
    await client.delete(f"{RULES}/no-bars")
    assert await delivery(client, wide) == (1, 1)
    # The first one that applies decides; those of other consumers do not.
    await rule(client, "usual", "prioritize", priority=1, position=1)
    assert await delivery(client, own) == (1, 2)
    elsewhere = {"consumers": {"regions": ["us"]}}
    changed = await client.patch(f"{RULES}/usual", json=elsewhere)
    assert changed.status_code == 200, changed.text
    assert await delivery(client, own) == (3, 2)
    await client.patch("/v1/consumers/desk", json={"region": "us"})
    assert (await delivery(client, own), await delivery(client, wide)) == ((1, 2), (1, 1))
    await client.delete(f"{RULES}/usual")
    await client.patch(f"{RULES}/trades", json={"enabled": False})
    assert await delivery(client, own) == (2, 2)


async def test_new_subscriptions_have_the_priority_of_a_rule_at_once(
    client: Client,
) -> None:
    await register(client, "desk")
    await rule(client, "trades", "prioritize", **TRADES)
    filters = ["kind = 'trade'", "kind = 'quote'", "kind = 'trade' AND price > 1"]
    body = [
        {"consumer": "desk", "name": f"s{number}", "filter": sql}
        for number, sql in enumerate(filters)
    ]
    answer = await client.post("/v1/subscriptions:batch-create", json={"subscriptions": body})
    assert answer.status_code == 201, answer.text
    made = answer.json()["items"]
    assert [(await delivery(client, each))[0] for each in made] == [3, 1, 3]


async def test_rules_that_prioritize_are_no_turn_of_and_no_shadow_on_those_that_decide(
    client: Client,
) -> None:
    first = await rule(client, "first", "prioritize", priority=3)
    assert (await rule(client, "brake"))["shadowed_by"] is None
    shadowed = {"name": "again", "effect": "prioritize", "priority": 0}
    refused = await client.post(RULES, json=shadowed)
    assert refused.status_code == 422
    assert "'first'" in refused.json()["errors"][0]["detail"]
    for number in range(15):
        effect = ("prioritize", "deny")[number % 2]
        given = {"priority": 1} if effect == "prioritize" else {}
        sql = f"venue = 'V{number}'"
        await rule(client, f"r{number}", effect, when=sql, position=1, **given)
    assert (await client.get(f"{RULES}/{first['id']}")).json()["position"] == 16
    await rule(client, "allowed", "allow", when="venue = 'X'", position=1)


@pytest.mark.parametrize(
    ("effect", "members", "status"),
    [
        ("prioritize", {}, 422),
        ("prioritize", {"priority": 4}, 400),
        ("deny", {"priority": 3}, 422),
    ],
)
async def test_a_priority_is_of_rules_that_prioritize(
    client: Client, effect: str, members: dict[str, Any], status: int
) -> None:
    refused = await client.post(RULES, json={"name": "r", "effect": effect, **members})
    assert refused.status_code == status, refused.text
    assert "priority" in refused.json()["errors"][0]["pointer"]
    assert await names(client) == []


async def test_a_rule_that_no_longer_prioritizes_has_no_priority(client: Client) -> None:
    await rule(client, "r", "prioritize", **TRADES)
    changed = await client.patch(f"{RULES}/r", json={"effect": "deny"})
    assert (changed.json()["effect"], changed.json()["priority"]) == ("deny", None)
    refused = await client.patch(f"{RULES}/r", json={"effect": "prioritize"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/priority")
    back = await client.patch(f"{RULES}/r", json={"effect": "prioritize", "priority": 0})
    assert (back.json()["effect"], back.json()["priority"]) == ("prioritize", 0)
