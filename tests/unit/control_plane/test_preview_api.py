"""A change is tried on a log in memory: who may, what is refused, what is told, and its bounds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pulsar
import pyarrow as pa
import pytest
from access import Tokens, secured
from conftest import AwayClient
from events import quotes, trades
from held_messages import HeldReader
from litestar.testing import AsyncTestClient

from control_plane.app import create_app
from control_plane.domains.explain.search import Stored
from control_plane.domains.functions.service import StatusBoard
from control_plane.domains.preview.window import Bounds, Window
from control_plane.pulsar_admin import PulsarAdmin
from control_plane.pulsar_values import StoredEntries
from control_plane.security.roles import Role
from control_plane.settings import Settings
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.frames import encode_frame
from marketdata.topics import SEQUENCED_EVENTS, partition_topic

Client = AsyncTestClient[Any]
PREVIEW = "/v1/plans:preview"


class Message:
    def __init__(self, payload: bytes, stored_ms: int, count: int) -> None:
        self._payload, self._stored_ms, self._count = payload, stored_ms, count
        self.entry = 0

    def message_id(self) -> pulsar.MessageId:
        return pulsar.MessageId(0, 7, self.entry, -1)

    def data(self) -> bytes:
        return self._payload

    def properties(self) -> dict[str, str]:
        return {"count": str(self._count)}

    def publish_timestamp(self) -> int:
        return self._stored_ms


class Log(AwayClient):
    """As a client of a broker that holds a log of two partitions."""

    partitions: ClassVar[list[list[Message]]] = [[], []]

    def create_reader(self, topic: str, start: Any, **_: Any) -> HeldReader[Message]:  # type: ignore[override]
        if not topic.startswith(SEQUENCED_EVENTS):
            raise pulsar.ConnectError("down")
        return HeldReader(self.partitions[int(topic[-1])][start.entry_id() :])


async def partitions(_self: Any, topic: str) -> int:
    assert topic == SEQUENCED_EVENTS
    return len(Log.partitions)


async def stored_entries(_self: Any, topic: str) -> StoredEntries:
    return StoredEntries(((7, len(Log.partitions[int(topic[-1])])),), written=True)


@pytest.fixture
def broker_client() -> type[Any]:
    return Log


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> list[list[Message]]:
    """The log: trades of A and B at 187.25 and more, and a quote of C in the other partition."""
    sequences = InstrumentSequences()

    def frame(kind: str, batch: pa.RecordBatch, seconds_ago: float) -> Message:
        numbers = sequences.assign(batch)
        rows = with_sequences(batch, kind, numbers, epoch=1, ts_sequenced_ns=1)
        stored_ms = int((time.time() - seconds_ago) * 1000)
        return Message(encode_frame(rows), stored_ms, batch.num_rows)

    first = [
        frame("trade", trades(["A"]), 600),
        frame("trade", trades(["A", "B"]), 30),
        Message(b"", int(time.time() * 1000) - 20_000, 0),
        Message(b"nonsense", int(time.time() * 1000) - 20_000, 1),
        frame("trade", trades(["A"], price=[10**12]), 10),
    ]
    stored = [first, [frame("quote", quotes(["C"]), 5)]]
    for messages in stored:
        for entry, message in enumerate(messages):
            message.entry = entry
    monkeypatch.setattr(Log, "partitions", stored)
    monkeypatch.setattr(PulsarAdmin, "partitions", partitions)
    monkeypatch.setattr(PulsarAdmin, "stored_entries", stored_entries)
    return stored


@pytest.fixture
async def desk(client: Client) -> str:
    return await made(client, "/v1/consumers", name="desk")


async def made(client: Client, path: str, **members: Any) -> str:
    answer = await client.post(path, json=members)
    assert answer.status_code == 201, answer.text
    created: str = answer.json()["id"]
    return created


@pytest.fixture
async def subscribed(client: Client, desk: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A subscription of `desk` to the instruments of a set that holds A."""
    await made(client, "/v1/instrument-sets", name="some", instruments=["A"])
    plane = client.app.state.control_plane

    async def broker_is_there() -> None:
        return

    monkeypatch.setattr(plane.subscriptions, "_require_broker", broker_is_there)
    condition = "instrument IN SET 'some'"
    return await made(client, "/v1/subscriptions", consumer=desk, name="s", filter=condition)


async def previewed(client: Client, **proposal: Any) -> Any:
    answer = await client.post(PREVIEW, json=proposal)
    assert answer.status_code == 200, answer.text
    return answer.json()


def effects(told: dict[str, Any]) -> dict[str, int]:
    return {fate: told[fate]["events"] for fate in ("appear", "vanish", "change")}


async def test_a_subscription_to_make_is_told_what_it_would_get(client: Client, desk: str) -> None:
    asked = {"consumer": "desk", "name": "new", "filter": "kind = 'trade' OR bid_price > 1000"}
    answer = await previewed(client, create=[asked], samples=1, top=1)
    window, [told] = answer["window"], answer["subscriptions"]
    assert window["events"] == 4
    assert not window["cut"]
    assert [(each["events"], each["unreadable"]) for each in window["partitions"]] == [
        (3, 1),
        (1, 0),
    ]
    assert (told["subscription"], told["consumer"], told["what"]) == (None, desk, "create")
    assert (told["delivered_before"], told["delivered_after"]) == (0, 3)
    assert told["appear"]["by_kind"] == {"trade": 3}
    assert told["appear"]["top_instruments"] == [{"instrument": "A", "events": 2}]
    [sample] = told["appear"]["samples"]
    assert (sample["instrument"], sample["sequence"], sample["before"]) == ("A", 2, None)
    assert sample["after"]["price"] == "187.25"
    # Nothing was stored.
    assert (await client.get("/v1/subscriptions")).json()["items"] == []
    assert (await client.get("/v1/plans")).json()["items"] == []


async def test_changes_closings_sets_and_entitlements_are_tried_together(
    client: Client, desk: str, subscribed: str
) -> None:
    changed = {"subscription": subscribed, "transformation": {"rename": {"price": "px"}}}
    [told] = (await previewed(client, change=[changed]))["subscriptions"]
    assert effects(told) == {"appear": 0, "vanish": 0, "change": 2}
    assert told["change"]["columns"] == {"price": 2, "px": 2}
    assert [part["part"] for part in told["parts"]] == ["transformation"]

    [told] = (await previewed(client, delete=[subscribed]))["subscriptions"]
    assert effects(told) == {"appear": 0, "vanish": 2, "change": 0}
    assert told["view_after"] is None

    sets = {"some": {"add": ["B"], "remove": ["A"]}}
    [told] = (await previewed(client, instrument_sets=sets))["subscriptions"]
    assert effects(told) == {"appear": 1, "vanish": 2, "change": 0}
    assert told["view_before"] == told["view_after"]

    bounds = {"desk": {"instruments": ["B"]}}
    [told] = (await previewed(client, entitlements=bounds, instrument_sets=sets))["subscriptions"]
    assert effects(told) == {"appear": 1, "vanish": 2, "change": 0}
    assert told["subscription"] == subscribed
    assert "instrument = 'B'" in told["parts"][0]["after"]

    # What leaves everything as it is affects nobody.
    same = await previewed(client, entitlements={desk: {"venues": None}})
    assert same["subscriptions"] == []


async def test_versions_and_sets_that_are_yet_to_be_made_can_be_referred_to(
    client: Client, desk: str, subscribed: str
) -> None:
    mids = {"name": "mids", "transformation": {"compute": {"double": "price * 2"}}}
    change = {"subscription": subscribed, "shared_transformation": "mids@1"}
    [told] = (await previewed(client, transformations=[mids], change=[change]))["subscriptions"]
    assert told["change"]["columns"] == {"double": 2}
    created = {"consumer": desk, "name": "n", "filter": "instrument IN SET 'other'"}
    sets = {"other": {"instruments": ["C"]}}
    [told] = (await previewed(client, create=[created], instrument_sets=sets))["subscriptions"]
    assert told["appear"]["by_kind"] == {"quote": 1}
    assert (await client.get("/v1/transformations")).json()["items"] == []


async def test_routing_rules_are_tried_for_all_whom_they_select(
    client: Client, subscribed: str
) -> None:
    deny = {"name": "no", "effect": "deny", "when": "price < 187.5"}
    [told] = (await previewed(client, rules={"create": [deny]}))["subscriptions"]
    assert (told["subscription"], told["what"]) == (subscribed, "change")
    gone = effects(told)["vanish"]
    assert 0 < gone == told["delivered_before"] - told["delivered_after"]
    # Nothing was stored; and whom rules do not select, or what they do not change, is not told of.
    assert (await client.get("/v1/rules")).json()["items"] == []
    other = deny | {"consumers": {"names_except": ["desk"]}}
    for rules in ({"create": [other]}, {"create": [deny | {"enabled": False}]}):
        assert (await previewed(client, rules=rules))["subscriptions"] == []

    await made(client, "/v1/rules", **deny)
    for rules in ({"delete": ["no"]}, {"change": {"no": {"enabled": False}}}):
        [told] = (await previewed(client, rules=rules))["subscriptions"]
        assert effects(told) == {"appear": gone, "vanish": 0, "change": 0}
    allow = {"name": "yes", "effect": "allow", "when": "kind = 'trade'"}
    order = {"create": [allow], "order": ["yes", "no"]}
    [told] = (await previewed(client, rules=order))["subscriptions"]
    assert effects(told) == {"appear": gone, "vanish": 0, "change": 0}


async def test_a_rule_that_prioritizes_is_tried_as_another_delivery(
    client: Client, subscribed: str
) -> None:
    first = {"name": "first", "effect": "prioritize", "priority": 3}
    [told] = (await previewed(client, rules={"create": [first]}))["subscriptions"]
    assert told["subscription"] == subscribed
    [part] = told["parts"]
    assert (part["part"], part["after"]["priority"]) == ("delivery", 3)
    assert effects(told) == {"appear": 0, "vanish": 0, "change": 0}
    partly = first | {"when": "price > 187.5"}
    assert (await previewed(client, rules={"create": [partly]}))["subscriptions"] == []


@pytest.mark.parametrize(
    ("proposal", "status", "pointer"),
    [
        (
            {"create": [{"consumer": "desk", "name": "n", "filter": "prise > 1"}]},
            422,
            "/create/0/filter",
        ),
        (
            {"create": [{"consumer": "desk", "name": "n", "filter": "instrument IN SET 'no'"}]},
            422,
            "/create/0/filter",
        ),
        (
            {"create": [{"consumer": "desk", "name": "n", "shared_transformation": "no@1"}]},
            422,
            "/create/0/shared_transformation",
        ),
        (
            {"entitlements": {"desk": {"instrument_sets": ["no"]}}},
            422,
            "/entitlements/desk/instrument_sets",
        ),
        ({"delete": ["s1", "s1"]}, 422, "/change"),
        (
            {"rules": {"create": [{"name": "r", "effect": "deny", "when": "prise > 1"}]}},
            422,
            "/rules/create/0/when",
        ),
        (
            {"rules": {"create": [{"name": "r", "effect": "deny", "origin_regions": ["eu"]}]}},
            422,
            "/rules/create/0/origin_regions",
        ),
        ({"rules": {"order": ["no"]}}, 422, "/rules/order/rules/0"),
        ({"rules": {"delete": ["no"]}}, 404, None),
        (
            {"transformations": [{"name": "a", "transformation": {"select": ["no"]}}]},
            422,
            "/transformations/0/transformation",
        ),
        ({"minutes": 61}, 400, "/minutes"),
        ({"create": [{"consumer": "nobody", "name": "n"}]}, 404, None),
        ({"delete": ["s0123456789abcdef"]}, 404, None),
        ({"entitlements": {"nobody": {}}}, 404, None),
    ],
)
@pytest.mark.usefixtures("desk")
async def test_what_the_change_itself_would_be_refused_for_is_refused(
    client: Client, proposal: dict[str, Any], status: int, pointer: str | None
) -> None:
    answer = await client.post(PREVIEW, json=proposal)
    assert answer.status_code == status, answer.text
    assert [each["pointer"] for each in answer.json().get("errors", [])] == (
        [pointer] if pointer else []
    )


@pytest.mark.usefixtures("subscribed")
async def test_entitlements_by_which_nobody_would_serve_a_subscription_are_refused(
    client: Client, desk: str
) -> None:
    board = client.app.state.control_plane.board
    board.lanes = {"": "distributor", "conflated": "conflator"}
    rated = {"consumer": desk, "name": "rated", "delivery": {"max_rate": 5}}
    assert (await client.post("/v1/subscriptions", json=rated)).status_code == 422
    board.take(b'{"function": "conflator", "instance": 0, "reported_at_ns": 1}')
    await made(client, "/v1/subscriptions", **rated)
    bounds = {"entitlements": {"desk": {"minimum_delay_seconds": 900}}}
    answer = await client.post(PREVIEW, json=bounds)
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert problem["pointer"] == "/entitlements"
    assert "'rated'" in problem["detail"]


async def test_a_closed_subscription_and_a_suspended_consumer_contradict(
    client: Client, desk: str, subscribed: str
) -> None:
    await client.delete(f"/v1/subscriptions/{subscribed}")
    answer = await client.post(PREVIEW, json={"delete": [subscribed]})
    assert answer.status_code == 409
    await client.patch(f"/v1/consumers/{desk}", json={"suspended": True})
    answer = await client.post(PREVIEW, json={"create": [{"consumer": "desk", "name": "n"}]})
    assert answer.status_code == 409


@pytest.mark.usefixtures("desk")
async def test_the_window_is_bounded_in_events(client: Client) -> None:
    created = {"consumer": "desk", "name": "n"}
    window = (await previewed(client, create=[created], max_events=2))["window"]
    assert window["cut"]
    assert [each["cut"] for each in window["partitions"]] == ["events", "events"]
    whole = (await previewed(client, create=[created], minutes=15))["window"]
    assert (whole["events"], whole["cut"]) == (5, False)


@pytest.mark.parametrize(
    ("bounds", "cut"),
    [
        ({"size": 2}, ["bytes", "bytes"]),
        ({"seconds": 0.0}, ["time", "time"]),
        ({}, [None, None]),
    ],
)
def test_the_window_is_bounded_in_bytes_and_time(bounds: dict[str, Any], cut: list[Any]) -> None:
    now = int(time.time() * 1000)
    given = {"events": 1000, "size": 10**9, "seconds": 60.0, **bounds}
    stored = [
        Stored(
            partition_topic(SEQUENCED_EVENTS, number), StoredEntries(((7, len(messages)),), True)
        )
        for number, messages in enumerate(Log.partitions)
    ]
    window = Window(Log(), stored, Bounds(now - 60_000, **given))  # type: ignore[arg-type]
    list(window.frames())
    assert [each.cut for each in window.read] == cut


async def test_only_few_previews_run_at_a_time(client: Client) -> None:
    previews = client.app.state.control_plane.previews
    for others in (["platform:anybody"], ["consumer:a", "consumer:b"]):
        with contextlib.ExitStack() as under_way:
            for other in others:
                under_way.enter_context(previews._admitted(other))
            refused = await client.post(PREVIEW, json={})
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:dds:problem:too-many-previews"
        assert "Retry-After" in refused.headers
    assert (await client.post(PREVIEW, json={})).status_code == 200


@pytest.fixture
async def secured_client(
    settings: Settings, tmp_path: Path
) -> AsyncIterator[tuple[Client, Tokens]]:
    changed = secured(settings, tmp_path)
    async with AsyncTestClient(create_app(changed), raise_server_exceptions=False) as client:
        yield client, Tokens(changed)


async def test_a_consumer_may_try_only_what_is_its_own(
    secured_client: tuple[Client, Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, tokens = secured_client

    async def broker_is_there() -> None:
        return

    plane = client.app.state.control_plane
    monkeypatch.setattr(plane.subscriptions, "_require_broker", broker_is_there)
    client.headers = tokens.platform()
    await made(client, "/v1/instrument-sets", name="mine", instruments=["A"])
    bounds = {"instrument_sets": ["mine"]}
    ann = await made(client, "/v1/consumers", name="ann", entitlements=bounds)
    bob = await made(client, "/v1/consumers", name="bob", entitlements={})
    foreign = await made(client, "/v1/subscriptions", consumer=bob, name="s")

    client.headers = tokens.of(Role.CONSUMER, ann)
    for proposal, status in (
        ({"delete": [foreign]}, 404),
        ({"change": [{"subscription": foreign, "filter": ""}]}, 404),
        ({"create": [{"consumer": bob, "name": "n"}]}, 404),
        ({"entitlements": {ann: {"instrument_sets": None}}}, 403),
        ({"instrument_sets": {"mine": {"add": ["B"]}}}, 403),
        ({"transformations": [{"name": "a", "transformation": {}}]}, 403),
    ):
        assert (await client.post(PREVIEW, json=proposal)).status_code == status, proposal

    own = {"create": [{"consumer": ann, "name": "n"}]}
    told = (await client.post(PREVIEW, json=own)).json()
    # What the set holds says what it may receive from when that was so: nothing of the log, here.
    assert told["window"]["shortened"]
    assert told["subscriptions"][0]["appear"]["events"] == 0
    client.headers = tokens.platform()
    told = (await client.post(PREVIEW, json=own)).json()
    assert not told["window"]["shortened"]
    assert told["subscriptions"][0]["appear"]["top_instruments"] == [
        {"instrument": "A", "events": 2}
    ]
    client.headers = tokens.of(Role.READ_ONLY, "eve")
    assert (await client.post(PREVIEW, json=own)).status_code == 403


async def test_a_consumer_whose_events_are_delayed_sees_none_that_are_younger(
    secured_client: tuple[Client, Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, tokens = secured_client
    board = client.app.state.control_plane.board
    lanes = {"": "distributor", "delay-300": "distributor-delayed"}
    # The reconciler goes on telling those of the project's topology.
    ours = property(lambda _: lanes, lambda *_: None)
    monkeypatch.setattr(StatusBoard, "lanes", ours, raising=False)
    client.headers = tokens.platform()
    bounds = {"minimum_delay_seconds": 300}
    refused = await client.post("/v1/consumers", json={"name": "ann", "entitlements": bounds})
    assert refused.json()["errors"][0]["pointer"] == "/entitlements/minimum_delay_seconds"
    board.take(b'{"function": "distributor-delayed", "instance": 0, "reported_at_ns": 1}')
    ann = await made(client, "/v1/consumers", name="ann", entitlements=bounds)
    proposal = {"create": [{"consumer": ann, "name": "n"}], "minutes": 15}
    told = (await client.post(PREVIEW, json=proposal)).json()
    assert told["window"]["events"] == 5
    client.headers = tokens.of(Role.CONSUMER, ann)
    told = (await client.post(PREVIEW, json=proposal)).json()
    assert (told["window"]["events"], told["window"]["cut"]) == (1, False)
    assert told["subscriptions"][0]["appear"]["events"] == 1


@pytest.mark.usefixtures("subscribed")
async def test_many_affected_subscriptions_are_told_of_in_part(
    client: Client, desk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    condition = "instrument IN SET 'some' AND price > 1"
    await made(client, "/v1/subscriptions", consumer=desk, name="n", filter=condition)
    sets = {"some": {"add": ["B"]}}
    whole = await previewed(client, instrument_sets=sets)
    assert (len(whole["subscriptions"]), whole["subscriptions_cut"]) == (2, False)
    monkeypatch.setattr("control_plane.domains.preview.proposal.MOST_SUBSCRIPTIONS", 1)
    told = await previewed(client, instrument_sets=sets)
    assert (len(told["subscriptions"]), told["subscriptions_cut"]) == (1, True)
    monkeypatch.setattr("control_plane.domains.preview.proposal.MOST_ROWS", 0)
    assert (await previewed(client, instrument_sets=sets))["subscriptions_cut"]


async def test_a_shared_transformation_may_enrich_and_on_backlog_is_checked(
    client: Client, desk: str
) -> None:
    lots = {"enrich": [{"table": "masters", "columns": {"lot": "lot"}}]}
    shared = {"name": "enriched", "transformation": lots}
    create = {"consumer": desk, "name": "new", "shared_transformation": "enriched@1"}
    proposal = {"transformations": [shared], "create": [create]}
    refused = await client.post(PREVIEW, json=proposal)
    assert refused.status_code == 422
    pointer = refused.json()["errors"][0]["pointer"]
    assert pointer == "/transformations/0/transformation/enrich/0"
    columns = [{"name": "instrument", "type": "text"}, {"name": "lot", "type": "integer"}]
    await made(client, "/v1/reference-tables", name="masters", columns=columns, key=["instrument"])
    told = await previewed(client, **proposal)
    assert [each["what"] for each in told["subscriptions"]] == ["create"]
    create["on_backlog"] = {"policy": "drop_oldest"}
    refused = await client.post(PREVIEW, json=proposal)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/create/0/on_backlog"


@pytest.mark.parametrize("rules", ["x", {"change": {"x": 5}}, {"order": {"rules": [None]}}, 5])
async def test_rules_that_are_none_are_refused(client: Client, rules: Any) -> None:
    """`rules` is also what a part of the application is called."""
    refused = await client.post(PREVIEW, json={"rules": rules})
    assert refused.status_code == 400, refused.text
    (problem,) = refused.json()["errors"]
    assert "rules" in problem["pointer"] + problem["detail"]
