"""What the control plane asks of a broker that knows who its clients are."""

import json
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from control_plane.broker_grants import NOBODY, PUBLISHING, READING, BrokerGrants, publisher
from control_plane.domains.plans.delivery_topics import DeliveryTopics
from control_plane.domains.plans.models import ViewRow
from control_plane.domains.subscriptions.models import Subscription
from control_plane.fenced_topics import FencedTopics
from control_plane.pulsar_admin import AdminRejected, PulsarAdmin
from control_plane.topology import Actual, Topology, apply, diff
from control_plane.topology.model import Namespace
from control_plane.topology.policies import grant_steps, read_grants
from marketdata.connection import Access
from marketdata.topics import INGEST_EVENTS

SETTINGS = "/admin/v2/brokers/configuration/runtime"
GRANT = "/admin/v2/namespaces/grantPermissionsOnTopics"
REVOKE = "/admin/v2/namespaces/revokePermissionsOnTopics"
VIEW = "persistent://marketdata/delivery/view-1"
ALICE, BOB = "c0000000000000001", "c0000000000000002"


class FakeBroker:
    """Answers what grants need, and remembers what was changed."""

    def __init__(self, *, enabled: bool = True, held: dict[str, Any] | None = None) -> None:
        self.enabled = enabled
        self.held = held or {}
        self.reserved: dict[str, list[str]] = {}
        self.changes: list[tuple[str, Any]] = []
        self.asked = 0
        self.fails: set[str] = set()
        self.missing: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path in self.fails:
            return httpx.Response(500, json={"reason": "no"})
        if path == SETTINGS:
            self.asked += 1
            return httpx.Response(200, json={"authorizationEnabled": str(self.enabled).lower()})
        if request.method == "GET":
            held = {"destination_auth": self.held, "subscription_auth_roles": self.reserved}
            return httpx.Response(200, json={"auth_policies": held})
        body = json.loads(request.content) if request.content else None
        if path in (GRANT, REVOKE) and self.missing & {each["topic"] for each in body}:
            return httpx.Response(404, json={"reason": "not found"})
        self.changes.append((f"{request.method} {path}", body))
        return httpx.Response(204)

    def admin(self, access: Access | None = None) -> PulsarAdmin:
        return PulsarAdmin(
            "http://broker",
            transport=httpx.MockTransport(self),
            retry_for_s=0,
            access=access or Access(),
        )


async def test_a_broker_that_does_not_ask_is_left_alone() -> None:
    broker = FakeBroker(enabled=False)
    async with broker.admin() as admin:
        grants = BrokerGrants(admin)
        await grants.give(READING, [(VIEW, ALICE)])
        await grants.take([(VIEW, ALICE)])
        assert await grants.correct(READING, {(VIEW, ALICE)}) == (set(), set())
    assert broker.changes == []
    assert broker.asked == 1


async def test_who_pauses_is_kept_from_its_pulsar_subscription_only() -> None:
    broker = FakeBroker()
    broker.reserved = {"c1-s1": [NOBODY], "c1-s2": [], "c1-s3": [NOBODY]}
    base = "/admin/v2/namespaces/marketdata/delivery/permissions"
    async with broker.admin() as admin:
        made, ended = await BrokerGrants(admin).correct_blocks(["c1-s2", "c1-s3"])
    assert (made, ended) == ({"c1-s2"}, {"c1-s1"})
    assert broker.changes == [
        (f"DELETE {base}/c1-s1/{NOBODY}", None),
        (f"POST {base}/subscription/c1-s2", [NOBODY]),
    ]


async def test_nothing_is_asked_for_nothing() -> None:
    broker = FakeBroker()
    async with broker.admin() as admin:
        await BrokerGrants(admin).give(READING, [])
        await BrokerGrants(admin).take([])
    assert (broker.asked, broker.changes) == (0, [])


async def test_what_is_missing_is_given_and_what_is_foreign_taken() -> None:
    other = "persistent://marketdata/delivery/view-2"
    held = {
        VIEW: {ALICE: ["consume", "produce"], BOB: ["consume"], "c3": ["consume"]},
        other: {ALICE: ["consume"]},
    }
    broker = FakeBroker(held=held)
    async with broker.admin() as admin:
        given, taken = await BrokerGrants(admin).correct(
            READING, {(VIEW, ALICE), (VIEW, BOB), (other, BOB)}, tolerated={(VIEW, "c3")}
        )
    assert given == {(VIEW, ALICE), (other, BOB)}
    assert taken == {(other, ALICE)}
    assert broker.changes == [
        (f"POST {REVOKE}", [{"topic": other, "role": ALICE}]),
        (
            f"POST {GRANT}",
            [
                {"topic": VIEW, "role": ALICE, "actions": ["consume"]},
                {"topic": other, "role": BOB, "actions": ["consume"]},
            ],
        ),
    ]


async def test_a_topic_that_is_missing_keeps_no_other_from_its_grant() -> None:
    """Pulsar refuses all of a request in which one topic does not exist."""
    gone, broker = "persistent://marketdata/delivery/view-0", FakeBroker()
    broker.missing.add(gone)
    async with broker.admin() as admin:
        await BrokerGrants(admin).take([(gone, ALICE), (VIEW, ALICE)])
        await BrokerGrants(admin).give(READING, [(gone, BOB), (VIEW, BOB)])
    assert broker.changes == [
        (f"POST {REVOKE}", [{"topic": VIEW, "role": ALICE}]),
        (f"POST {GRANT}", [{"topic": VIEW, "role": BOB, "actions": ["consume"]}]),
    ]


async def test_a_publisher_may_write_ingest() -> None:
    broker = FakeBroker()
    async with broker.admin() as admin:
        await BrokerGrants(admin).give(PUBLISHING, [publisher("feed-1")])
    wanted = {"topic": INGEST_EVENTS, "role": "feed-1", "actions": ["produce"]}
    assert broker.changes == [(f"POST {GRANT}", [wanted])]


def subscription(number: int, consumer: str) -> Subscription:
    return Subscription(
        id=f"s{number:016x}", consumer_id=consumer, view=ViewRow(id="1", topic=VIEW), start="latest"
    )


async def test_a_grant_goes_before_the_cursor_and_only_when_nobody_needs_it() -> None:
    """A client that is cut off connects again at once: its right must be gone by then."""
    broker = FakeBroker()
    rows = [subscription(1, ALICE), subscription(2, BOB)]
    async with broker.admin() as admin:
        topics = DeliveryTopics(admin, BrokerGrants(admin), FencedTopics(admin))
        gone = await topics.drop_cursors(rows, still_granted={rows[1].grant})
    assert gone == rows
    first, *rest = broker.changes
    assert first == (f"POST {REVOKE}", [{"topic": VIEW, "role": ALICE}])
    assert sorted(call.partition(" ")[0] for call, _ in rest) == ["DELETE", "DELETE"]


async def test_a_cursor_stays_until_its_grant_is_gone() -> None:
    broker = FakeBroker()
    broker.fails.add(REVOKE)
    async with broker.admin() as admin:
        topics = DeliveryTopics(admin, BrokerGrants(admin), FencedTopics(admin))
        assert await topics.drop_cursors([subscription(1, ALICE)], still_granted=set()) == []
    assert broker.changes == []


async def test_every_request_shows_the_token_of_that_moment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    shown: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append(request.headers["Authorization"])
        return httpx.Response(200, json=[])

    transport = httpx.MockTransport(answer)
    async with PulsarAdmin("http://broker", transport=transport, access=Access(file)) as admin:
        for token in ("one", "two"):
            file.write_text(token)
            await admin.clusters()
        file.unlink()
        with pytest.raises(AdminRejected, match="cannot be read"):
            await admin.clusters()
    assert shown == ["Bearer one", "Bearer two"]


def test_grants_of_a_namespace_are_compared_role_by_role() -> None:
    document = {
        "auth_policies": {"namespace_auth": {"a": ["produce", "consume"], "b": ["produce"]}}
    }
    held = read_grants(document)
    assert grant_steps(held, {"a": ("consume", "produce")}) == {"b": []}
    assert grant_steps(held, {"b": ("consume",), "c": ("produce",)}) == {
        "a": [],
        "b": ["consume"],
        "c": ["produce"],
    }


async def test_grants_of_a_namespace_are_applied() -> None:
    name = "marketdata/ingest"
    desired = Topology(1, {}, {name: Namespace(name, grants={"functions": ("produce",)})}, {}, {})
    held = {name: {"grants.stranger": ("consume",)}}
    assert diff(desired, Actual(namespaces={name: {}})) == []
    changes = diff(desired, Actual(namespaces=cast(Any, held), authorization=True))
    broker = FakeBroker()
    async with broker.admin() as admin:
        await apply(admin, changes, timeout_s=1)
    base = f"/admin/v2/namespaces/{name}/permissions"
    assert broker.changes == [
        (f"POST {base}/functions", ["produce"]),
        (f"DELETE {base}/stranger", None),
    ]
