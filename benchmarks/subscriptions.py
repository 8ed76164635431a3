"""Views for a benchmark, subscribed to over the control plane's HTTP API as any consumer does it.

View v of N wants the instruments i with i mod N = v: together they cover every event once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx

from benchmarks.figures import BenchmarkFailed
from benchmarks.pool import instrument_name

ROLLOUT_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 60.0


def filter_of_view(view: int, views: int, instruments: int) -> str:
    """The SQL filter of one of `views` views over `instruments` instruments."""
    names = ", ".join(f"'{instrument_name(i)}'" for i in range(view, instruments, views))
    return f"instrument IN ({names})"


@contextmanager
def subscribed(url: str, *, views: int, instruments: int) -> Iterator[list[dict[str, str]]]:
    """Subscriptions to `views` views, in force on every instance; closed again at the end.

    Yields:
        For each view its `name`, and the `topic` and `subscription_name` to read.
    """
    consumer = f"bench-{time.time_ns():x}"
    made: list[dict[str, Any]] = []
    with httpx.Client(base_url=f"{url}/v1", timeout=REQUEST_TIMEOUT_S) as api:
        _send(api, "POST", "/consumers", {"name": consumer})
        try:
            for view in range(views):
                request = {
                    "consumer": consumer,
                    "name": f"view-{view}",
                    "filter": filter_of_view(view, views, instruments),
                }
                made.append(_send(api, "POST", "/subscriptions", request))
            _await_rollout(api, made)
            yield [
                {key: each[key] for key in ("name", "topic", "subscription_name")} for each in made
            ]
        finally:
            # The stack may be the reason why we are here.
            with suppress(httpx.HTTPError, BenchmarkFailed):
                for each in made:
                    _send(api, "DELETE", f"/subscriptions/{each['id']}")
                _send(api, "DELETE", f"/consumers/{consumer}")


def _await_rollout(api: httpx.Client, made: list[dict[str, Any]]) -> None:
    deadline = time.monotonic() + ROLLOUT_TIMEOUT_S
    topics = {each["topic"] for each in made}
    while True:
        plan = _send(api, "GET", "/plans/current")
        routed = topics <= {view["topic"] for view in plan["views"]}
        if routed and plan["rollout"]["state"] == "applied":
            return
        if time.monotonic() > deadline:
            raise BenchmarkFailed(
                f"plan {plan['number']} is {plan['rollout']} after {ROLLOUT_TIMEOUT_S:.0f} s;"
                " look at the log of the distributor (scripts/dev.py logs distributor)"
            )
        time.sleep(0.1)


def _send(
    api: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    answer = api.request(method, path, json=body)
    if answer.is_error:
        raise BenchmarkFailed(f"{method} {path} was answered {answer.status_code}: {answer.text}")
    found: dict[str, Any] = answer.json() if answer.content else {}
    return found
