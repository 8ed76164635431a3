"""The control plane's HTTP API as a user of it would call it: plain requests with httpx."""

import time
from types import TracebackType
from typing import Any, Final, Self

import httpx

from marketdata.connection import Access
from scripts.access import authenticate

_PATIENCE_S: Final = 30.0


class ApiError(Exception):
    """The control plane refused; the text is its own."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"{answer.request.method} {answer.request.url}: {answer.text}")
        self.status = answer.status_code


class ControlApi:
    """Consumers, subscriptions and plans over HTTP. What it made, it can take away again."""

    def __init__(self, url: str) -> None:
        trusted = Access.from_environment().tls()
        self.http = httpx.Client(base_url=url, timeout=30.0, auth=authenticate, verify=trusted)
        self._made: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def request(self, method: str, path: str, document: Any = None) -> Any:
        """One request; a 503 is repeated after the time it names.

        Raises:
            ApiError: the answer is neither good nor a 503 that passes within half a minute.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            answer = self.http.request(method, path, json=document)
            if answer.status_code != 503 or time.monotonic() > deadline:
                break
            time.sleep(float(answer.headers.get("Retry-After", "1")))
        if answer.is_error:
            raise ApiError(answer)
        return answer.json() if answer.content else None

    def register(self, name: str, **details: Any) -> str:
        """Register a consumer, who may receive everything if nothing else is said; its id."""
        document = {"name": name, "entitlements": {}, **details}
        consumer = self.request("POST", "/v1/consumers", document)
        self._made.append(f"/v1/consumers/{consumer['id']}")
        return str(consumer["id"])

    def subscribe(self, consumer: str, name: str, **details: Any) -> dict[str, Any]:
        """Make a subscription; what the API says of it (`topic`, `subscription_name`, `plan` …)."""
        document = {"consumer": consumer, "name": name, **details}
        subscription: dict[str, Any] = self.request("POST", "/v1/subscriptions", document)
        self._made.append(f"/v1/subscriptions/{subscription['id']}")
        return subscription

    def await_applied(self, plan: int, timeout_s: float = 120.0) -> None:
        """Wait until every instance of the distributor runs this plan or a later one.

        Raises:
            TimeoutError: with what the API last said of the rollout.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            current = self.request("GET", "/v1/plans/current")
            if current["number"] >= plan and current["rollout"]["state"] == "applied":
                return
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"plan {plan} is not applied after {timeout_s:.0f} s; plan"
                    f" {current['number']}: {current['rollout']}"
                )
            time.sleep(0.1)

    def take_away(self) -> None:
        """Close every subscription and delete every consumer made here, newest first.

        Raises:
            ApiError: the first refusal, after all of them have been tried.
        """
        refusals = []
        while self._made:
            try:
                self.request("DELETE", self._made.pop())
            except ApiError as error:
                refusals.append(error)
        if refusals:
            raise refusals[0]
