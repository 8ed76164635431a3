"""Issuing, renewing, listing and revoking tokens, on the whole application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from access import Client, Tokens, header, secured
from litestar.testing import AsyncTestClient
from sqlalchemy import text

from control_plane.app import create_app
from control_plane.database import Database
from control_plane.errors import DatabaseUnavailableError
from control_plane.security.revocation import RETRY_SECONDS, Revocations, Revoked
from control_plane.security.roles import Role
from control_plane.settings import Settings


@pytest.fixture
def safe(settings: Settings, tmp_path: Path) -> Settings:
    return secured(settings, tmp_path)


@pytest.fixture
def tokens(safe: Settings) -> Tokens:
    return Tokens(safe)


@pytest.fixture
async def guarded(safe: Settings) -> AsyncIterator[Client]:
    async with AsyncTestClient(create_app(safe), raise_server_exceptions=False) as client:
        yield client


async def post(client: Client, path: str, body: Any, headers: dict[str, str]) -> Any:
    return await client.post(path, json=body, headers=headers)


async def issued(client: Client, body: Any, headers: dict[str, str]) -> dict[str, Any]:
    answer = await post(client, "/v1/tokens", body, headers)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def register(client: Client, name: str, platform: dict[str, str]) -> str:
    answer = await post(client, "/v1/consumers", {"name": name}, platform)
    return str(answer.json()["id"])


async def status(client: Client, token: str) -> int:
    return int((await client.get("/v1/tokens", headers=header(token))).status_code)


async def test_the_platform_team_issues_for_a_consumer_that_then_renews_itself(
    guarded: Client, tokens: Tokens
) -> None:
    desk = await register(guarded, "desk", tokens.platform())
    first = await issued(guarded, {"consumer": "desk"}, tokens.platform())
    assert (first["subject"], first["role"]) == (desk, "consumer")
    assert tokens.ring.verify(first["token"]).token_id == first["id"]
    bodies: list[dict[str, Any]] = [{}, {"consumer": desk}, {"consumer": "desk"}]
    for body in bodies:
        again = await issued(guarded, body, header(first["token"]))
        assert again["subject"] == desk
        assert again["id"] != first["id"]
        assert again["renewable_until"] == first["renewable_until"]
        assert await status(guarded, again["token"]) == 200


async def test_a_lifetime_is_as_asked_or_as_set_up(guarded: Client, tokens: Tokens) -> None:
    body: dict[str, Any] = {"role": "read-only", "subject": "grafana"}
    now = datetime.now(UTC)
    for asked, seconds in (({}, 3600), ({"lifetime_seconds": 600}, 600)):
        made = await issued(guarded, body | asked, tokens.platform())
        lifetime = datetime.fromisoformat(made["expires_at"]) - now
        assert abs(lifetime - timedelta(seconds=seconds)) < timedelta(seconds=60)
    for wrong in (0, 59, 86_401, "1h"):
        refused = await post(
            guarded, "/v1/tokens", body | {"lifetime_seconds": wrong}, tokens.platform()
        )
        assert refused.status_code == 400


async def test_a_request_that_names_nobody_clearly_is_refused(
    guarded: Client, tokens: Tokens
) -> None:
    await register(guarded, "desk", tokens.platform())
    for body in (
        {"role": "platform"},
        {"subject": "ann"},
        {"consumer": "desk", "role": "publisher", "subject": "feed"},
        {"consumer": "desk", "subject": "feed"},
        {"role": "platform", "subject": "c0123456789abcdef"},
        {"role": "publisher", "subject": "functions"},
        {"role": "publisher", "subject": "Not A Name"},
    ):
        refused = await post(guarded, "/v1/tokens", body, tokens.platform())
        assert refused.status_code == 422, body
        assert refused.json()["errors"]
    body = {"role": "functions", "subject": "functions"}
    assert (await post(guarded, "/v1/tokens", body, tokens.platform())).status_code == 400


async def test_nobody_becomes_somebody_else(guarded: Client, tokens: Tokens) -> None:
    desk = await register(guarded, "desk", tokens.platform())
    other = await register(guarded, "other", tokens.platform())
    attempts = {
        (Role.CONSUMER, desk): [{"role": "platform", "subject": "ann"}],
        (Role.PUBLISHER, "feed"): [
            {"role": "publisher", "subject": "other"},
            {"role": "platform", "subject": "feed"},
            {"consumer": other},
            {"consumer": "nobody"},
        ],
        (Role.READ_ONLY, "grafana"): [{"role": "platform", "subject": "grafana"}],
    }
    for (role, subject), bodies in attempts.items():
        for body in bodies:
            refused = await post(guarded, "/v1/tokens", body, tokens.of(role, subject))
            assert refused.status_code == 403, body
        assert await issued(guarded, {}, tokens.of(role, subject))
    hidden = await post(
        guarded, "/v1/tokens", {"consumer": "other"}, tokens.of(Role.CONSUMER, desk)
    )
    assert hidden.status_code == 404


async def test_renewing_ends(guarded: Client, tokens: Tokens) -> None:
    def aged(days: float) -> dict[str, str]:
        token, _ = tokens.ring.issue(
            subject="feed",
            role=Role.PUBLISHER,
            lifetime=timedelta(hours=1),
            authenticated_at=datetime.now(UTC) - timedelta(days=days),
        )
        return header(token)

    nearly = await issued(guarded, {}, aged(30 - 0.01))
    assert nearly["expires_at"] <= nearly["renewable_until"]
    refused = await post(guarded, "/v1/tokens", {}, aged(30))
    assert refused.status_code == 403
    assert "platform team" in refused.json()["detail"]


async def test_lists_hold_no_secrets_and_only_what_is_the_callers(
    guarded: Client, tokens: Tokens
) -> None:
    await register(guarded, "desk", tokens.platform())
    made = [
        await issued(guarded, {"consumer": "desk"}, tokens.platform()),
        await issued(guarded, {"role": "publisher", "subject": "feed"}, tokens.platform()),
    ]
    page = (await guarded.get("/v1/tokens", headers=tokens.platform())).json()
    # Tokens tell whole seconds, so these two may come either way round.
    ids = sorted(each["id"] for each in made)
    assert sorted(item["id"] for item in page["items"]) == ids
    assert {item["issued_by"] for item in page["items"]} == {"ann"}
    assert all("token" not in item for item in page["items"])
    for each in made:
        mine = (await guarded.get("/v1/tokens", headers=header(each["token"]))).json()
        assert [item["id"] for item in mine["items"]] == [each["id"]]
    params = {"subject": made[1]["subject"]}
    foreign = await guarded.get("/v1/tokens", params=params, headers=header(made[0]["token"]))
    assert foreign.json()["items"] == []
    one = await guarded.get("/v1/tokens", params={"limit": "1"}, headers=tokens.platform())
    params = {"cursor": one.json()["next_cursor"]}
    rest = await guarded.get("/v1/tokens", params=params, headers=tokens.platform())
    pages = [*one.json()["items"], *rest.json()["items"]]
    assert sorted(item["id"] for item in pages) == ids


async def test_a_revoked_token_and_what_was_renewed_from_it_are_refused(
    guarded: Client, tokens: Tokens
) -> None:
    body = {"role": "publisher", "subject": "feed"}
    stolen = await issued(guarded, body, tokens.platform())
    kept = await issued(guarded, body, tokens.platform())
    child = await issued(guarded, {}, header(stolen["token"]))
    grandchild = await issued(guarded, {}, header(child["token"]))
    gone = await guarded.delete(f"/v1/tokens/{stolen['id']}", headers=tokens.platform())
    assert gone.status_code == 204
    for each in (stolen, child, grandchild):
        assert await status(guarded, each["token"]) == 401
    assert await status(guarded, kept["token"]) == 200
    page = (await guarded.get("/v1/tokens", headers=tokens.platform())).json()
    revoked = {item["id"] for item in page["items"] if item["revoked"]}
    assert revoked == {stolen["id"], child["id"], grandchild["id"]}
    text = (await guarded.get("/metrics", headers=tokens.platform())).text
    assert 'dds_authentication_refused_total{reason="revoked"} 3.0' in text


async def test_everybody_revokes_its_own_and_nobody_elses(guarded: Client, tokens: Tokens) -> None:
    mine = await issued(guarded, {"role": "publisher", "subject": "feed"}, tokens.platform())
    theirs = await issued(guarded, {"role": "publisher", "subject": "tape"}, tokens.platform())
    own = header(mine["token"])
    assert (await guarded.delete(f"/v1/tokens/{theirs['id']}", headers=own)).status_code == 404
    unknown = await guarded.delete(f"/v1/tokens/{'0' * 32}", headers=own)
    assert unknown.status_code == 404
    everything = await post(guarded, "/v1/tokens/revoke", {"subject": "tape"}, own)
    assert everything.status_code == 404
    assert await status(guarded, theirs["token"]) == 200
    assert (await guarded.delete(f"/v1/tokens/{mine['id']}", headers=own)).status_code == 204
    assert await status(guarded, mine["token"]) == 401


async def test_a_token_made_by_command_can_be_revoked_too(guarded: Client, tokens: Tokens) -> None:
    token, claims = tokens.ring.issue(
        subject="bob", role=Role.PLATFORM, lifetime=timedelta(hours=1)
    )
    assert await status(guarded, token) == 200
    gone = await guarded.delete(f"/v1/tokens/{claims.token_id}", headers=tokens.platform())
    assert gone.status_code == 204
    assert await status(guarded, token) == 401


async def test_all_of_a_subject_are_revoked_and_a_new_one_is_good_at_once(
    guarded: Client, tokens: Tokens
) -> None:
    desk = await register(guarded, "desk", tokens.platform())
    old = [
        (await issued(guarded, {"consumer": desk}, tokens.platform()))["token"],
        tokens.make(Role.CONSUMER, desk),
    ]
    done = await post(guarded, "/v1/tokens/revoke", {"subject": desk}, tokens.platform())
    assert done.status_code == 200
    fresh = await issued(guarded, {"consumer": desk}, tokens.platform())
    assert [await status(guarded, token) for token in old] == [401, 401]
    assert await status(guarded, fresh["token"]) == 200
    assert await status(guarded, tokens.make(Role.PLATFORM)) == 200


async def test_a_deleted_consumer_has_no_token_and_gets_none(
    guarded: Client, tokens: Tokens
) -> None:
    desk = await register(guarded, "desk", tokens.platform())
    token = (await issued(guarded, {"consumer": desk}, tokens.platform()))["token"]
    assert await status(guarded, token) == 200
    gone = await guarded.delete(f"/v1/consumers/{desk}", headers=tokens.platform())
    assert gone.status_code == 204
    await asyncio.sleep(0.1)
    assert await status(guarded, token) == 401
    refused = await post(guarded, "/v1/tokens", {"consumer": desk}, tokens.platform())
    assert refused.status_code == 404


async def test_another_control_plane_refuses_it_too(
    guarded: Client, safe: Settings, tokens: Tokens
) -> None:
    made = await issued(guarded, {"role": "publisher", "subject": "feed"}, tokens.platform())
    async with AsyncTestClient(create_app(safe), raise_server_exceptions=False) as second:
        assert await status(second, made["token"]) == 200
        await guarded.delete(f"/v1/tokens/{made['id']}", headers=tokens.platform())
        await asyncio.sleep(0.1)
        assert await status(second, made["token"]) == 401


async def test_what_ended_long_ago_is_forgotten(
    guarded: Client, tokens: Tokens, database: Database
) -> None:
    for name in ("old", "new"):
        made = await issued(guarded, {"role": "publisher", "subject": name}, tokens.platform())
        await guarded.delete(f"/v1/tokens/{made['id']}", headers=tokens.platform())
    async with database.transaction() as session:
        await session.execute(
            text(
                "UPDATE tokens SET issued_at = issued_at - interval '33 days',"
                " expires_at = expires_at - interval '33 days' WHERE subject = 'old'"
            )
        )
        await session.execute(
            text(
                "UPDATE token_revocations SET forget_after = now() - interval '3 days' WHERE id ="
                " (SELECT min(id) FROM token_revocations)"
            )
        )
    await issued(guarded, {"role": "publisher", "subject": "newest"}, tokens.platform())
    async with database.transaction() as session:
        left = (await session.scalars(text("SELECT subject FROM tokens ORDER BY 1"))).all()
        revocations = await session.scalar(text("SELECT count(*) FROM token_revocations"))
    assert left == ["new", "newest"]
    assert revocations == 1


async def test_a_chain_of_renewals_is_revoked_from_its_start_weeks_later(
    guarded: Client, tokens: Tokens, database: Database
) -> None:
    first = await issued(guarded, {"role": "publisher", "subject": "feed"}, tokens.platform())
    second = await issued(guarded, {}, header(first["token"]))
    third = await issued(guarded, {}, header(second["token"]))
    async with database.transaction() as session:
        await session.execute(
            text(
                "UPDATE tokens SET issued_at = issued_at - interval '20 days',"
                " expires_at = expires_at - interval '20 days' WHERE id <> :newest"
            ),
            {"newest": third["id"]},
        )
    await issued(guarded, {"role": "publisher", "subject": "other"}, tokens.platform())
    assert await status(guarded, third["token"]) == 200
    await guarded.delete(f"/v1/tokens/{first['id']}", headers=tokens.platform())
    assert await status(guarded, third["token"]) == 401


async def test_who_renews_while_a_subject_is_revoked_gains_nothing(
    guarded: Client, tokens: Tokens, database: Database
) -> None:
    """Another control plane that had not heard of it yet renewed the token a moment later."""
    stolen = await issued(guarded, {"role": "publisher", "subject": "feed"}, tokens.platform())
    renewed = await issued(guarded, {}, header(stolen["token"]))
    fresh = await issued(guarded, {"role": "publisher", "subject": "feed"}, tokens.platform())
    other = await issued(guarded, {"role": "publisher", "subject": "other"}, tokens.platform())
    async with database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO token_revocations (subject, issued_until, revoked_by, forget_after)"
                " VALUES ('feed', now() - interval '1 hour', 'ann', now() + interval '1 day')"
            )
        )
        await session.execute(
            text("UPDATE tokens SET issued_at = issued_at - interval '2 hours' WHERE id = :stolen"),
            {"stolen": stolen["id"]},
        )
    # Whoever revokes reads what is revoked anew.
    await guarded.delete(f"/v1/tokens/{other['id']}", headers=tokens.platform())
    assert await status(guarded, renewed["token"]) == 401
    assert await status(guarded, fresh["token"]) == 200


async def test_a_name_that_two_roles_have_is_not_revoked_by_one_of_them(
    guarded: Client, tokens: Tokens
) -> None:
    mine = await issued(guarded, {"role": "read-only", "subject": "alice"}, tokens.platform())
    other = await issued(guarded, {"role": "publisher", "subject": "alice"}, tokens.platform())
    listed = await guarded.get("/v1/tokens", headers=header(mine["token"]))
    assert [token["id"] for token in listed.json()["items"]] == [mine["id"]]
    body = {"subject": "alice"}
    refused = await post(guarded, "/v1/tokens/revoke", body, header(mine["token"]))
    assert refused.status_code == 403
    assert await status(guarded, other["token"]) == 200


class Store:
    """What PostgreSQL would answer, and how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.now = 0.0
        self.revoked = Revoked()
        self.away = False

    def clock(self) -> float:
        return self.now

    async def load(self) -> Revoked:
        self.asked += 1
        await asyncio.sleep(0)
        if self.away:
            raise DatabaseUnavailableError("away")
        return self.revoked


async def test_a_copy_is_never_older_than_stated_and_requests_share_its_renewal() -> None:
    store = Store()
    copy = Revocations(store.load, known_within_seconds=5, monotonic=store.clock)
    await asyncio.gather(*(copy.current() for _ in range(20)))
    assert store.asked == 1
    store.revoked = Revoked(frozenset({"a"}))
    store.now = 2.0
    assert (await copy.current())[0].token_ids == set()
    assert store.asked == 1
    store.now = 4.0  # older than half: renewed beside the request
    assert await copy.current() == (Revoked(), True)
    await asyncio.sleep(0.01)
    assert (await copy.current())[0].token_ids == {"a"}
    assert store.asked == 2
    store.revoked = Revoked(frozenset({"a", "b"}))
    store.now = 10.0  # too old: waited for
    assert (await copy.current())[0].token_ids == {"a", "b"}
    await copy.close()


async def test_without_postgresql_nobody_is_certain_and_few_ask() -> None:
    store = Store()
    copy = Revocations(store.load, known_within_seconds=5, monotonic=store.clock)
    store.revoked = Revoked(frozenset({"a"}))
    assert await copy.current() == (store.revoked, True)
    store.away, store.now = True, 6.0
    for _ in range(10):
        assert await copy.current() == (store.revoked, False)
    assert store.asked == 2
    store.away, store.now = False, 6.0 + RETRY_SECONDS
    assert await copy.current() == (store.revoked, True)
    await copy.close()


async def test_a_change_made_here_is_seen_here_at_once() -> None:
    store = Store()
    copy = Revocations(store.load, known_within_seconds=5, monotonic=store.clock)
    under_way = asyncio.create_task(copy.current())
    await asyncio.sleep(0)
    store.revoked = Revoked(frozenset({"a"}))
    await copy.renew()
    assert (await copy.current())[0].token_ids == {"a"}
    await under_way
    await copy.close()
