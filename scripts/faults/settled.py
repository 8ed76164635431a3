"""What the database wants and what the broker has, by somebody who knows the contract only.

Read with plain SQL and the broker's admin API; nothing of the control plane's code decides.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

import httpx
import msgspec
import psycopg
import pulsar

from marketdata.plans import decode_plan
from marketdata.topics import PLANS, TENANT
from scripts.devstack.stack import Stack

NAMESPACE: Final = f"{TENANT}/delivery"
FUNCTIONS: Final = (f"{TENANT}/functions/sequencer", f"{TENANT}/functions/distributor")
_READ_TIMEOUT_MS: Final = 5_000
_CURSORS: Final = """
SELECT v.topic, s.consumer_id || '-' || s.id, s.consumer_id
FROM subscriptions s JOIN views v ON v.id = s.view_id WHERE s.state NOT IN ('draining', 'closed')
UNION
SELECT v.topic, m.subscription_name, s.consumer_id
FROM subscription_moves m JOIN views v ON v.id = m.view_id
JOIN subscriptions s ON s.id = m.subscription_id WHERE m.ended_at IS NULL
"""
_UNSETTLED: Final = """
SELECT (SELECT count(*) FROM subscriptions WHERE state = 'pending'),
       (SELECT count(*) FROM subscriptions WHERE state = 'closed' AND cursor_removed_at IS NULL),
       (SELECT count(*) FROM subscriptions s WHERE state = 'draining' AND NOT EXISTS
        (SELECT FROM subscription_moves m WHERE m.subscription_id = s.id
         AND m.view_id = s.view_id AND m.ended_at IS NULL))
"""
_NEWEST: Final = """
SELECT number, digest, published_at IS NOT NULL FROM plans ORDER BY number DESC LIMIT 1
"""


@dataclass(slots=True)
class Wanted:
    """What the database says.

    Attributes:
        cursors: (topic, Pulsar subscription) that must be there, and no others.
        grants: (topic, role) that must be there, and no others.
        unsettled: what the database itself calls unfinished.
        plan: number and digest of the newest plan, and whether it calls it published.
    """

    cursors: set[tuple[str, str]] = field(default_factory=set)
    grants: set[tuple[str, str]] = field(default_factory=set)
    unsettled: list[str] = field(default_factory=list)
    plan: tuple[int, str, bool] = (0, "", False)


class Cluster:
    """A stack's broker and database, for whoever compares or hurts them."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        security = stack.security
        self.secure = security is not None
        token = security.access.token() if security is not None else None
        self.http = httpx.Client(
            base_url=f"{stack.admin_url}/admin",
            timeout=20.0,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            verify=security.tls() if security is not None else True,
        )
        self._functions: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.http.close()

    def get(self, path: str) -> Any:
        """The broker's answer; None for 404.

        Raises:
            httpx.HTTPError: it does not answer, or with an error.
        """
        answer = self.http.get(path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        return answer.raise_for_status().json()

    def note_functions(self) -> None:
        """Take the functions as they are configured now for what is to be."""
        self._functions = {name: self.get(f"/v3/functions/{name}") for name in FUNCTIONS}

    def wanted(self) -> Wanted:
        """What the database says now."""
        found = Wanted()
        with psycopg.connect(self._stack.database_url, connect_timeout=5) as connection:
            for topic, name, consumer in connection.execute(_CURSORS):
                found.cursors.add((topic, name))
                found.grants.add((topic, consumer))
            unsettled = connection.execute(_UNSETTLED).fetchone() or (0, 0, 0)
            (pending, left, drained) = unsettled
            if pending:
                found.unsettled.append(f"{pending} subscriptions are pending")
            if left:
                found.unsettled.append(f"{left} closed subscriptions have their cursor")
            if drained:
                found.unsettled.append(f"{drained} subscriptions are drained and not closed")
            found.plan = connection.execute(_NEWEST).fetchone() or (0, "", False)
        return found

    def differences(self) -> list[str]:
        """What is not as it should be; what cannot be found out is a difference, too."""
        try:
            wanted = self.wanted()
            if wanted.unsettled:
                return wanted.unsettled
            return list(self._compared(wanted))
        except (httpx.HTTPError, psycopg.Error, pulsar.PulsarException) as error:
            return [f"{type(error).__name__}: {error}"]

    def _compared(self, wanted: Wanted) -> Iterator[str]:
        yield from self._deployed()
        topics = set(self.get(f"/v2/persistent/{NAMESPACE}/partitioned") or ())
        yield from _unequal("topics", {topic for topic, _ in wanted.cursors}, topics)
        cursors = {(topic, name) for topic in topics for name in self._subscriptions(topic)}
        yield from _unequal("Pulsar subscriptions", wanted.cursors, cursors)
        if self.secure:
            yield from _unequal("grants", wanted.grants, self.grants())
        number, digest, published = wanted.plan
        if not published:
            yield f"plan {number} is not published"
        on_topic = self.plan_on_topic()
        if on_topic != (number, digest):
            yield f"the topic has plan {on_topic}, the database {number, digest}"

    def _deployed(self) -> Iterator[str]:
        for name, config in self._functions.items():
            found = self.get(f"/v3/functions/{name}")
            if found != config:
                differs = _differing(config, found or {})
                yield f"{name} is configured differently: {differs}" if found else f"no {name}"
                continue
            status = self.get(f"/v3/functions/{name}/status")
            if status["numRunning"] != config["parallelism"]:
                yield f"{status['numRunning']} instances of {name} run"

    def _subscriptions(self, topic: str) -> list[str]:
        return list(self.get(f"/v2/{topic.replace('://', '/')}/subscriptions") or ())

    def grants(self) -> set[tuple[str, str]]:
        """(topic, role) of all that may be consumed by itself."""
        policies = self.get(f"/v2/namespaces/{NAMESPACE}") or {}
        by_topic: Mapping[str, Mapping[str, Any]] = policies["auth_policies"]["destination_auth"]
        return {(topic, role) for topic, roles in by_topic.items() for role in roles}

    def client(self) -> pulsar.Client:
        """A client of the broker; the caller closes it."""
        security = self._stack.security
        access = security.access.client_arguments() if security is not None else {}
        return pulsar.Client(
            self._stack.service_url,
            operation_timeout_seconds=10,
            logger=pulsar.FileLogger(pulsar.LoggerLevel.Error, "/dev/null"),
            **access,
        )

    def plan_on_topic(self) -> tuple[int, str] | None:
        """Number and digest of the last plan on the compacted topic; None for what is no plan."""
        client = self.client()
        try:
            reader = client.create_reader(PLANS, pulsar.MessageId.earliest, is_read_compacted=True)
            last = None
            while reader.has_message_available():
                last = reader.read_next(_READ_TIMEOUT_MS).data()
            if last is None:
                return None
            plan = decode_plan(last)
            return plan.number, plan.digest
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        finally:
            client.close()


def _unequal(what: str, wanted: set[Any] | Iterable[Any], found: set[Any]) -> Iterator[str]:
    wanted = set(wanted)
    if missing := sorted(wanted - found):
        yield f"{len(missing)} {what} missing: {missing[:3]}"
    if foreign := sorted(found - wanted):
        yield f"{len(foreign)} {what} too many: {foreign[:3]}"


def _differing(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    names = [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]
    return ", ".join(sorted(names))
