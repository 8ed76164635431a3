"""What `deploy_functions.py` warns of before it deploys."""

from typing import Any

import httpx
import pytest

from control_plane.pulsar_admin import AdminUnavailable, PulsarAdmin
from control_plane.topology import broker_warnings


async def warnings_for(status: int, document: Any) -> list[str]:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/admin/v2/brokers/configuration/runtime"
        return httpx.Response(status, json=document)

    transport = httpx.MockTransport(answer)
    async with PulsarAdmin("http://broker", transport=transport, retry_for_s=0) as admin:
        return await broker_warnings(admin)


async def test_a_delayed_failover_is_warned_of() -> None:
    (warning,) = await warnings_for(200, {"activeConsumerFailoverDelayTimeMillis": "1000"})
    assert "activeConsumerFailoverDelayTimeMillis is 1000" in warning
    assert "set it to 0 in broker.conf" in warning


@pytest.mark.parametrize("settings", [{"activeConsumerFailoverDelayTimeMillis": "0"}, {}])
async def test_nothing_is_said_where_nothing_is_wrong(settings: dict[str, str]) -> None:
    assert await warnings_for(200, settings) == []


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_settings_that_may_not_be_read_are_not_taken_for_good(status: int) -> None:
    (warning,) = await warnings_for(status, {"reason": "only for superusers"})
    assert "only for superusers" in warning
    assert "activeConsumerFailoverDelayTimeMillis=0" in warning


async def test_a_broker_that_does_not_serve_is_an_error() -> None:
    with pytest.raises(AdminUnavailable):
        await warnings_for(503, {"reason": "starting"})
