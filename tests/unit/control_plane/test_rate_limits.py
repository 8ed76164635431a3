"""Rate limits: buckets by a clock of the test, and the headers of the whole application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from access import Tokens, secured
from hypothesis import given
from hypothesis import strategies as st
from litestar.testing import AsyncTestClient

from control_plane.app import create_app
from control_plane.rate_limits import MOST_CALLERS, RateLimiter
from control_plane.security.roles import Role
from control_plane.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_let_through_and_then_what_fills_again() -> None:
    clock = Clock()
    limiter = RateLimiter(2, 4, clock)
    assert [limiter.take("a").remaining for _ in range(4)] == [3, 2, 1, 0]
    refused = limiter.take("a")
    assert (refused.remaining, refused.reset_seconds) == (0, 2.0)
    assert refused.retry_after_seconds == pytest.approx(0.5)
    assert limiter.take("b").retry_after_seconds is None
    clock.now += 0.5
    assert limiter.take("a").retry_after_seconds is None
    assert limiter.take("a").retry_after_seconds is not None
    clock.now += 60
    assert limiter.take("a").remaining == 3


@given(
    st.integers(1, 20),
    st.integers(1, 10),
    st.lists(st.floats(0, 3, allow_nan=False), min_size=1, max_size=80),
)
def test_no_more_than_a_burst_and_the_rate_get_through_and_waiting_as_told_helps(
    rate: int, burst: int, pauses: list[float]
) -> None:
    clock = Clock()
    limiter = RateLimiter(rate, burst, clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        standing = limiter.take("a")
        assert 0 <= standing.remaining < burst
        if standing.retry_after_seconds is None:
            taken += 1
        else:
            clock.now += standing.retry_after_seconds
            assert limiter.take("a").retry_after_seconds is None
            taken += 1
    assert taken <= burst + (clock.now - 1000) * rate + 1e-3


def test_what_is_remembered_is_bounded_and_who_is_over_the_limit_is_kept() -> None:
    clock = Clock()
    limiter = RateLimiter(1, 2, clock)
    assert [limiter.take("hog").retry_after_seconds for _ in range(2)] == [None, None]
    for number in range(MOST_CALLERS + 10):
        limiter.take(str(number))
    assert len(limiter._full_at) <= MOST_CALLERS
    assert limiter.take("hog").retry_after_seconds is not None


async def test_callers_are_limited_one_by_one_and_told_when_to_come_back(
    settings: Settings, tmp_path: Path
) -> None:
    # So slow that nothing fills again while the test runs.
    safe = secured(settings, tmp_path, rate_limit_per_second=0.0001, rate_limit_burst=2)
    tokens = Tokens(safe)
    ann, bob = (tokens.of(Role.READ_ONLY, name) for name in ("ann", "bob"))
    async with AsyncTestClient(create_app(safe)) as client:

        async def ask(headers: dict[str, str], path: str = "/v1/functions") -> Any:
            return await client.get(path, headers=headers)

        first, second, third = [await ask(ann) for _ in range(3)]
        assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
        assert [each.headers["ratelimit-remaining"] for each in (first, second, third)] == [
            "1",
            "0",
            "0",
        ]
        assert {each.headers["ratelimit-limit"] for each in (first, second, third)} == {"2"}
        assert int(third.headers["ratelimit-reset"]) > int(third.headers["retry-after"]) > 0
        problem = third.json()
        assert third.headers["content-type"] == "application/problem+json"
        assert problem["type"] == "urn:dds:problem:rate-limited"
        assert problem["request_id"] == third.headers["x-request-id"]
        assert (await ask(bob)).status_code == 200
        # Without a token that holds: by address, beside those that have one.
        assert [(await ask({})).status_code for _ in range(3)] == [401, 401, 429]
        assert (await ask(bob)).status_code == 200
        for path in ("/healthz", "/metrics", "/.well-known/jwks.json"):
            for _ in range(3):
                assert (await ask(ann, path)).status_code == 200


async def test_without_authentication_the_address_counts_and_nought_is_no_limit(
    settings: Settings,
) -> None:
    slow = settings.model_copy(update={"rate_limit_per_second": 0.0001, "rate_limit_burst": 1})
    async with AsyncTestClient(create_app(slow)) as client:
        assert [(await client.get("/v1/functions")).status_code for _ in range(2)] == [200, 429]
    free = slow.model_copy(update={"rate_limit_per_second": 0.0})
    async with AsyncTestClient(create_app(free)) as client:
        answers = [await client.get("/v1/functions") for _ in range(3)]
        assert {answer.status_code for answer in answers} == {200}
        assert "ratelimit-limit" not in answers[0].headers
