"""The admin client against a scripted server: retries, errors, traps of the functions API."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from control_plane.pulsar_admin import (
    AdminConflict,
    AdminError,
    AdminNotFound,
    AdminRejected,
    AdminUnavailable,
    MessagePosition,
    PulsarAdmin,
)
from control_plane.pulsar_values import CursorPlace, StoredEntries
from marketdata.connection import Access
from marketdata.errors import DistributionError

Handler = Callable[[httpx.Request], httpx.Response]
FUNCTION = "marketdata/functions/sequencer"
TOPIC = "persistent://marketdata/ingest/events"


def admin_of(handler: Handler, retry_for_s: float = 5.0) -> PulsarAdmin:
    return PulsarAdmin(
        "http://broker", transport=httpx.MockTransport(handler), retry_for_s=retry_for_s
    )


def scripted(*answers: httpx.Response | Exception) -> tuple[Handler, list[httpx.Request]]:
    requests: list[httpx.Request] = []
    left = list(answers)

    def handler(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handler, requests


def reason(status: int, text: str) -> httpx.Response:
    return httpx.Response(status, json={"reason": text})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, AdminNotFound),
        (409, AdminConflict),
        (401, AdminRejected),
        (412, AdminRejected),
        (500, AdminUnavailable),
    ],
)
async def test_every_status_has_an_error_that_says_what_to_do(
    status: int, kind: type[AdminError]
) -> None:
    handler, requests = scripted(reason(status, "because"))
    async with admin_of(handler) as admin:
        with pytest.raises(kind, match="because") as caught:
            await admin.tenant("marketdata")
    assert isinstance(caught.value, DistributionError)
    assert (caught.value.status, caught.value.reason) == (status, "because")
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("location", "shown"),
    [("https://broker-2/there", "Bearer secret"), ("http://broker-2/there", None)],
)
async def test_the_token_follows_to_another_broker_and_to_nobody_without_tls(
    tmp_path: Path, location: str, shown: str | None
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    handler, requests = scripted(
        httpx.Response(307, headers={"Location": location}), httpx.Response(200, json={})
    )
    admin = PulsarAdmin(
        "https://broker", transport=httpx.MockTransport(handler), access=Access(token)
    )
    async with admin:
        await admin.tenant("marketdata")

    assert [each.headers.get("Authorization") for each in requests] == ["Bearer secret", shown]


async def test_a_broker_that_is_not_ready_is_asked_again() -> None:
    handler, requests = scripted(
        httpx.ConnectError("refused"),
        reason(503, "Leader not yet ready"),
        httpx.Response(200, json=["marketdata"]),
    )
    async with admin_of(handler) as admin:
        assert await admin.tenants() == ["marketdata"]
    assert len(requests) == 3


async def test_a_service_that_the_broker_does_not_have_is_not_asked_again() -> None:
    handler, requests = scripted(
        reason(503, "Package Management Service is not enabled in the broker.")
    )
    async with admin_of(handler) as admin:
        assert await admin.function_packages(FUNCTION) == []
    assert len(requests) == 1


async def test_asking_again_ends_with_what_to_check() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with admin_of(handler, retry_for_s=0.3) as admin:
        with pytest.raises(AdminUnavailable, match="Check that the broker runs"):
            await admin.clusters()


async def test_health_is_told_at_once() -> None:
    handler, requests = scripted(reason(503, "starting"))
    async with admin_of(handler) as admin:
        with pytest.raises(AdminUnavailable):
            await admin.check_health()
    assert len(requests) == 1


async def test_a_creation_whose_answer_was_lost_is_no_conflict() -> None:
    handler, _ = scripted(httpx.ReadError("cut"), reason(409, "This topic already exists"))
    async with admin_of(handler) as admin:
        await admin.create_topic(TOPIC, partitions=4)
    handler, _ = scripted(httpx.ConnectError("refused"), reason(409, "This topic already exists"))
    async with admin_of(handler) as admin:
        with pytest.raises(AdminConflict):
            await admin.create_topic(TOPIC, partitions=4)


async def test_a_deletion_whose_answer_was_lost_is_done() -> None:
    handler, _ = scripted(httpx.ReadError("cut"), reason(404, "no such topic"))
    async with admin_of(handler) as admin:
        await admin.delete_topic(TOPIC, partitioned=True)


async def test_an_update_without_changes_succeeds_and_says_so() -> None:
    handler, requests = scripted(reason(400, "Update contains no change"), httpx.Response(204))
    async with admin_of(handler) as admin:
        assert await admin.update_function(FUNCTION, {"name": "sequencer"}) is False
        assert await admin.update_function(FUNCTION, {"name": "sequencer"}, b"PK", "a.zip")
    assert b'name="data"' not in requests[0].read()
    assert b'name="data"; filename="a.zip"' in requests[1].read()


async def test_the_package_of_a_deleted_function_does_not_block_its_name() -> None:
    handler, requests = scripted(
        reason(500, f"Package 'function://{FUNCTION}@0' metadata already exists"),
        httpx.Response(200, json=["0", "1"]),
        httpx.Response(204),
        httpx.Response(204),
        httpx.Response(204),
    )
    async with admin_of(handler) as admin:
        await admin.create_function(FUNCTION, {}, b"PK", "a.zip")
    assert [request.method for request in requests] == ["POST", "GET", "DELETE", "DELETE", "POST"]


async def test_a_message_id_addresses_its_partition() -> None:
    handler, requests = scripted(httpx.Response(204), httpx.Response(204))
    position = MessagePosition(7, 9, 3)
    async with admin_of(handler) as admin:
        await admin.create_subscription(TOPIC, "a/b", start=position)
        await admin.reset_subscription(TOPIC, "a/b", to=position)
    assert requests[0].url.raw_path.endswith(b"/events-partition-3/subscription/a%2Fb")
    assert json.loads(requests[1].content) == {"ledgerId": 7, "entryId": 9, "partitionIndex": 3}


async def test_a_short_topic_name_is_a_programming_error() -> None:
    handler, _ = scripted()
    async with admin_of(handler) as admin:
        with pytest.raises(ValueError, match="full topic name"):
            await admin.partitions("events")


async def test_the_status_names_the_latest_reason_of_every_instance() -> None:
    failed = {"running": False, "error": "UNAVAILABLE", "numRestarts": 2, "workerId": "w"}
    body = {
        "numInstances": 2,
        "numRunning": 1,
        "instances": [
            {"instanceId": 0, "status": {"running": True, "error": ""}},
            {"instanceId": 1, "status": failed},
        ],
    }
    handler, _ = scripted(httpx.Response(200, json=body))
    async with admin_of(handler) as admin:
        status = await admin.function_status(FUNCTION)
    assert not status.all_running
    assert [each.error for each in status.instances] == ["", "UNAVAILABLE"]
    assert status.instances[1].restarts == 2


@pytest.mark.parametrize("lost", [httpx.ReadTimeout("slow"), httpx.Response(504)])
async def test_a_restart_that_may_be_under_way_is_not_asked_for_again(
    lost: httpx.Response | Exception,
) -> None:
    handler, requests = scripted(lost, httpx.Response(204))
    async with admin_of(handler) as admin:
        with pytest.raises(AdminUnavailable):
            await admin.restart_function(FUNCTION)
    assert len(requests) == 1


async def test_a_restart_that_was_not_begun_is_asked_for_again() -> None:
    handler, requests = scripted(
        httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(204)
    )
    async with admin_of(handler) as admin:
        await admin.restart_function(FUNCTION)
    assert len(requests) == 3


async def test_the_cursors_of_all_partitions_come_with_one_answer() -> None:
    """As broker 4.0.8 gave it, cut to what is read."""
    cursor = {
        "markDeletePosition": "34:7",
        "readPosition": "34:10",
        "individuallyDeletedMessages": "[(34:8..34:9]]",
    }
    partition = {
        "lastConfirmedEntry": "34:9",
        "ledgers": [{"ledgerId": 30, "entries": 4}, {"ledgerId": 34, "entries": 0}],
        "cursors": {"reader": cursor},
    }
    partitions = {f"{TOPIC}-partition-0": partition, f"{TOPIC}-partition-11": partition}
    handler, requests = scripted(
        httpx.Response(200, json={"metadata": {"partitions": 2}, "partitions": partitions})
    )
    async with admin_of(handler) as admin:
        found = await admin.cursor_places(TOPIC)
    assert requests[0].url.path.endswith("/ingest/events/partitioned-internalStats")
    stored = StoredEntries(((30, 4), (34, 10)), written=True)
    wanted = CursorPlace((34, 7), stored, (((34, 8), (34, 9)),), (34, 10), (34, 9))
    assert found == {0: {"reader": wanted}, 11: {"reader": wanted}}
