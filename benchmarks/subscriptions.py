"""Views for a benchmark, subscribed to over the control plane's HTTP API as any consumer does it.

View v of N wants every Nth instrument, from the vth on: together they cover every event once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import httpx

from benchmarks.figures import BenchmarkFailed
from marketdata.plans import USUAL_PRIORITY
from scripts.access import authenticate

CONNECTIONS = 4
BATCH = 250
"""So many are made by one request where there are more."""

ROLLOUT_TIMEOUT_S = 600.0
REQUEST_TIMEOUT_S = 60.0


def filter_of_view(view: int, views: int, names: Sequence[str]) -> str:
    """The SQL filter of one of `views` views over the instruments `names`."""
    wanted = ", ".join(f"'{name}'" for name in names[view::views])
    return f"instrument IN ({wanted})"


@contextmanager
def subscribed(
    url: str,
    *,
    views: int,
    names: Sequence[str],
    kinds: str = "apart",
    priority: int = USUAL_PRIORITY,
) -> Iterator[list[dict[str, str]]]:
    """Subscriptions to `views` views, in force on every instance; closed again at the end.

    Args:
        kinds, priority: of `delivery` of each.

    Yields:
        For each view its `name`, and the `topic` and `subscription_name` to read.
    """
    requests = [
        {
            "name": f"view-{view}",
            "filter": filter_of_view(view, views, names),
            "delivery": {"kinds": kinds, "priority": priority},
        }
        for view in range(views)
    ]
    with requested(url, requests) as answers:
        yield answers


@contextmanager
def requested(url: str, requests: Sequence[dict[str, Any]]) -> Iterator[list[dict[str, str]]]:
    """Subscriptions of a consumer of their own, as `subscribed` has them.

    Args:
        requests: bodies without the consumer.
    """
    consumer = f"bench-{time.time_ns():x}"
    made: list[dict[str, Any]] = []
    with (
        httpx.Client(base_url=f"{url}/v1", timeout=REQUEST_TIMEOUT_S, auth=authenticate) as api,
        ThreadPoolExecutor(CONNECTIONS) as connections,
    ):
        _send(api, "POST", "/consumers", {"name": consumer, "entitlements": {}})

        def subscribe(request: dict[str, Any]) -> dict[str, Any]:
            answer = _send(api, "POST", "/subscriptions", {"consumer": consumer, **request})
            made.append(answer)
            return answer

        def subscribe_together(first: int) -> list[dict[str, Any]]:
            body = [{"consumer": consumer, **each} for each in requests[first : first + BATCH]]
            answers = _send(api, "POST", "/subscriptions:batch-create", {"subscriptions": body})
            made.extend(answers["items"])
            return list(answers["items"])

        try:
            if len(requests) > BATCH:
                parts = map(subscribe_together, range(0, len(requests), BATCH))
                answers = list(chain.from_iterable(parts))
            else:
                answers = list(connections.map(subscribe, requests))
            _await_rollout(api, answers)
            yield [
                {key: each[key] for key in ("name", "topic", "subscription_name")}
                for each in answers
            ]
        finally:
            # The stack may be the reason why we are here.
            with suppress(httpx.HTTPError, BenchmarkFailed):
                list(connections.map(lambda each: _close(api, each), made))
                _send(api, "DELETE", f"/consumers/{consumer}")


def _close(api: httpx.Client, subscription: dict[str, Any]) -> None:
    _send(api, "DELETE", f"/subscriptions/{subscription['id']}")


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
    deadline = time.monotonic() + REQUEST_TIMEOUT_S
    while True:
        answer = api.request(method, path, json=body)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            break
        time.sleep(float(answer.headers.get("Retry-After", "1")))
    if answer.is_error:
        raise BenchmarkFailed(f"{method} {path} was answered {answer.status_code}: {answer.text}")
    found: dict[str, Any] = answer.json() if answer.content else {}
    return found
