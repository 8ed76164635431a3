"""Typed asyncio client of Pulsar's admin REST API, as far as this service administers Pulsar.

Topics are given as full names (`persistent://tenant/namespace/topic`), namespaces as
`tenant/namespace`, functions as `tenant/namespace/name`. Every method raises the errors drawn in
`control_plane.pulsar_http` and has a timeout; reads return what Pulsar says now, without caching.

    async with PulsarAdmin("http://127.0.0.1:8080") as admin:
        status = await admin.function_status("marketdata/functions/sequencer")
"""

from __future__ import annotations

import asyncio
import json
import re
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from control_plane.pulsar_http import (
    AdminConflict,
    AdminError,
    AdminHttp,
    AdminNotFound,
    AdminRejected,
    AdminUnavailable,
    Answer,
    Multipart,
    error_of,
)
from control_plane.pulsar_values import (
    CursorPlace,
    FunctionStatus,
    InstanceStatus,
    Json,
    MessagePosition,
    StartPosition,
    StoredEntries,
    SubscriptionStats,
    TopicStats,
    cursor_places,
    instance_status,
    stored_entries,
    topic_stats,
)
from marketdata.connection import NO_ACCESS, Access

__all__ = [
    "AdminConflict",
    "AdminError",
    "AdminNotFound",
    "AdminRejected",
    "AdminUnavailable",
    "FunctionStatus",
    "InstanceStatus",
    "MessagePosition",
    "PulsarAdmin",
    "SubscriptionStats",
    "TopicStats",
]

_EARLIEST = MessagePosition(-1, -1)
_FUNCTIONS_RETRY_FOR_S = 45.0
_UPLOAD_TIMEOUT_S = 60.0
_ACTION_TIMEOUT_S = 60.0
"""The worker answers when it has stopped and started all instances, one after the other."""
_PACKAGE_EXISTS = re.compile(r"metadata already exists", re.IGNORECASE)


UNLOADING_SECONDS = 90.0
"""Longer than a broker waits for topics that cannot be closed."""


class PulsarAdmin:
    """The admin API of one cluster. Make it inside the event loop that uses it; close it after."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 15.0,
        retry_for_s: float = 20.0,
        access: Access = NO_ACCESS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._http = AdminHttp(
            url,
            timeout_s=timeout_s,
            retry_for_s=retry_for_s,
            access=access,
            transport=transport,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _get(
        self,
        path: str,
        what: str,
        *,
        params: dict[str, str] | None = None,
        retry_for_s: float | None = None,
    ) -> Any:
        answer = await self._http.call("GET", path, what, params=params, retry_for_s=retry_for_s)
        return answer.json()

    # --- brokers, clusters, tenants

    async def check_health(self, *, timeout_s: float = 5.0) -> None:
        """Raise AdminUnavailable at once, without retries, when the broker does not serve."""
        path = "/admin/v2/brokers/health"
        try:
            await self._http.call(
                "GET", path, "check the broker's health", retry_for_s=0, timeout_s=timeout_s
            )
        except AdminNotFound as error:
            raise AdminUnavailable(str(error), status=error.status) from error

    async def version(self) -> str:
        """Pulsar's version, as `4.0.8`."""
        answer = await self._http.call("GET", "/admin/v2/brokers/version", "read Pulsar's version")
        return answer.text.strip().strip('"')

    async def broker_settings(self) -> dict[str, str]:
        """The configuration that a broker runs with; superusers only."""
        path = "/admin/v2/brokers/configuration/runtime"
        return dict(await self._get(path, "read the broker's configuration"))

    async def authorization_enabled(self) -> bool:
        """Whether the broker asks who may do what; grants can be made only then."""
        return (await self.broker_settings()).get("authorizationEnabled") == "true"

    async def clusters(self) -> list[str]:
        """The names of all clusters."""
        return list(await self._get("/admin/v2/clusters", "list clusters"))

    async def tenants(self) -> list[str]:
        """The names of all tenants."""
        return list(await self._get("/admin/v2/tenants", "list tenants"))

    async def tenant(self, tenant: str) -> Json:
        """A tenant's `adminRoles` and `allowedClusters`."""
        found: Json = await self._get(f"/admin/v2/tenants/{_part(tenant)}", f"read tenant {tenant}")
        return found

    async def create_tenant(
        self, tenant: str, allowed_clusters: list[str], admin_roles: list[str]
    ) -> None:
        """Create a tenant; conflict: it exists."""
        body = {"allowedClusters": allowed_clusters, "adminRoles": admin_roles}
        path = f"/admin/v2/tenants/{_part(tenant)}"
        await self._http.call("PUT", path, f"create tenant {tenant}", body=body)

    async def update_tenant(
        self, tenant: str, allowed_clusters: list[str], admin_roles: list[str]
    ) -> None:
        """Replace a tenant's roles and clusters."""
        body = {"allowedClusters": allowed_clusters, "adminRoles": admin_roles}
        path = f"/admin/v2/tenants/{_part(tenant)}"
        await self._http.call("POST", path, f"update tenant {tenant}", body=body)

    async def delete_tenant(self, tenant: str) -> None:
        """Delete a tenant without namespaces."""
        path = f"/admin/v2/tenants/{_part(tenant)}"
        await self._http.call("DELETE", path, f"delete tenant {tenant}")

    # --- namespaces and their policies

    async def namespaces(self, tenant: str) -> list[str]:
        """Full names of a tenant's namespaces."""
        path = f"/admin/v2/namespaces/{_part(tenant)}"
        return list(await self._get(path, f"list the namespaces of {tenant}"))

    async def namespace_policies(self, namespace: str) -> Json:
        """Pulsar's document of a namespace; what is unset is absent or empty."""
        path = f"/admin/v2/namespaces/{namespace}"
        found: Json = await self._get(path, f"read namespace {namespace}")
        return found

    async def create_namespace(self, namespace: str, *, bundles: int = 4) -> None:
        """Create a namespace; conflict: it exists."""
        path = f"/admin/v2/namespaces/{namespace}"
        body = {"bundles": {"numBundles": bundles}}
        await self._http.call("PUT", path, f"create namespace {namespace}", body=body)

    async def delete_namespace(self, namespace: str) -> None:
        """Delete a namespace without topics."""
        path = f"/admin/v2/namespaces/{namespace}"
        await self._http.call("DELETE", path, f"delete namespace {namespace}")

    async def set_namespace_policy(
        self,
        namespace: str,
        endpoint: str,
        value: Any,
        *,
        method: Literal["POST", "PUT"] = "POST",
        params: dict[str, str] | None = None,
    ) -> None:
        """Set one policy; `endpoint` is its path below the namespace, as `retention`."""
        path = f"/admin/v2/namespaces/{namespace}/{endpoint}"
        what = f"set {endpoint} of namespace {namespace}"
        await self._http.call(method, path, what, body=value, params=params)

    async def remove_namespace_policy(
        self, namespace: str, endpoint: str, *, params: dict[str, str] | None = None
    ) -> None:
        """Unset one policy, so that the broker's default holds."""
        path = f"/admin/v2/namespaces/{namespace}/{endpoint}"
        what = f"remove {endpoint} of namespace {namespace}"
        await self._http.call("DELETE", path, what, params=params)

    async def set_namespace_grant(self, namespace: str, role: str, actions: list[str]) -> None:
        """What a role may do on every topic of a namespace; no actions take everything away."""
        path = f"/admin/v2/namespaces/{namespace}/permissions/{_part(role)}"
        what = f"let {role} {' and '.join(actions) or 'do nothing'} in namespace {namespace}"
        if actions:
            await self._http.call("POST", path, what, body=actions)
        else:
            await self._http.call("DELETE", path, what)

    async def grant_on_topics(self, grants: list[tuple[str, str]], actions: list[str]) -> None:
        """Let roles do something on topics that exist: (topic, role) each, with all partitions."""
        body = [{"topic": topic, "role": role, "actions": actions} for topic, role in grants]
        path = "/admin/v2/namespaces/grantPermissionsOnTopics"
        await self._http.call("POST", path, "grant permissions on topics", body=body)

    async def revoke_on_topics(self, grants: list[tuple[str, str]]) -> None:
        """Take from roles all that was granted on a topic: (topic, role) each."""
        body = [{"topic": topic, "role": role} for topic, role in grants]
        path = "/admin/v2/namespaces/revokePermissionsOnTopics"
        await self._http.call("POST", path, "revoke permissions on topics", body=body)

    async def reserve_subscription(
        self, namespace: str, subscription: str, roles: list[str]
    ) -> None:
        """Let only some roles read under a subscription, on any topic; for none: whoever may."""
        what = f"reserve subscription {subscription} of namespace {namespace}"
        base = f"/admin/v2/namespaces/{namespace}/permissions"
        if roles:
            path = f"{base}/subscription/{_part(subscription)}"
            await self._http.call("POST", path, what, body=roles)
            return
        found = await self.namespace_policies(namespace)
        reserved = (found.get("auth_policies") or {}).get("subscription_auth_roles") or {}
        for role in reserved.get(subscription) or ():
            path = f"{base}/{_part(subscription)}/{_part(role)}"
            await self._http.call("DELETE", path, what)

    # --- topics

    async def partitioned_topics(self, namespace: str) -> list[str]:
        """Full names of the partitioned topics of a namespace."""
        path = f"/admin/v2/persistent/{namespace}/partitioned"
        return list(await self._get(path, f"list the partitioned topics of {namespace}"))

    async def topics(self, namespace: str) -> list[str]:
        """All persistent topics, with every partition of a partitioned one by its own name."""
        path = f"/admin/v2/persistent/{namespace}"
        return list(await self._get(path, f"list the topics of {namespace}"))

    async def partitions(self, topic: str) -> int:
        """The partition count; 0 for a topic that is not partitioned."""
        found = await self._get(f"{_topic(topic)}/partitions", f"read topic {topic}")
        return int(found["partitions"])

    async def create_topic(self, topic: str, *, partitions: int = 0) -> None:
        """Create a topic; conflict: it exists, whatever its partitions."""
        what = f"create topic {topic}"
        if partitions:
            path = f"{_topic(topic)}/partitions"
            await self._http.call("PUT", path, what, body=partitions)
        else:
            await self._http.call("PUT", _topic(topic), what)

    async def update_partitions(self, topic: str, partitions: int) -> None:
        """Grow a partitioned topic. Which instrument is in which partition changes with it."""
        path = f"{_topic(topic)}/partitions"
        await self._http.call("POST", path, f"grow topic {topic}", body=partitions)

    async def create_missed_partitions(self, topic: str) -> None:
        """Create again those partitions of a partitioned topic that have been deleted."""
        path = f"{_topic(topic)}/createMissedPartitions"
        await self._http.call("POST", path, f"create missing partitions of {topic}")

    async def delete_topic(self, topic: str, *, partitioned: bool, force: bool = False) -> None:
        """Delete a topic and its data; with `force` also when it is read or written right now."""
        path = f"{_topic(topic)}/partitions" if partitioned else _topic(topic)
        params = {"force": str(force).lower()}
        await self._http.call("DELETE", path, f"delete topic {topic}", params=params)

    async def bundles_of(self, topic: str) -> list[str]:
        """The bundles of its namespace that hold a partitioned topic's partitions."""
        place = _topic(topic).replace("/admin/v2/", "/lookup/v2/topic/")
        what = f"find the bundles of {topic}"
        found = set()
        for number in range(await self.partitions(topic)):
            path = f"{place}-partition-{number}/bundle"
            found.add((await self._http.call("GET", path, what)).text.strip())
        return sorted(found)

    async def unload_bundle(self, topic: str, bundle: str) -> None:
        """Have the broker let go of all topics of a bundle of a topic's namespace."""
        namespace = "/".join(topic.partition("://")[2].split("/")[:2])
        path = f"/admin/v2/namespaces/{namespace}/{bundle}/unload"
        what = f"unload bundle {bundle} of {namespace}"
        await self._http.call("PUT", path, what, timeout_s=UNLOADING_SECONDS)

    async def topic_stats(self, topic: str) -> TopicStats:
        """Counters of a topic that is not partitioned, or of one partition by its own name."""
        path = f"{_topic(topic)}/stats"
        return topic_stats(await self._get(path, f"read the statistics of {topic}"))

    async def partitioned_stats(self, topic: str, *, oldest: bool = False) -> TopicStats:
        """Counters of a partitioned topic, summed and for each partition.

        `oldest`: look up the age of each backlog too, for which the broker reads a message.
        """
        path = f"{_topic(topic)}/partitioned-stats"
        params = {"perPartition": "true", "getEarliestTimeInBacklog": str(oldest).lower()}
        what = f"read the statistics of {topic}"
        return topic_stats(await self._get(path, what, params=params))

    async def stored_entries(self, topic: str) -> StoredEntries:
        """The ledgers of one partition, with their numbers of entries."""
        path = f"{_topic(topic)}/internalStats"
        return stored_entries(await self._get(path, f"read the ledgers of {topic}"))

    async def cursor_place(self, topic: str, subscription: str) -> CursorPlace:
        """Where a cursor stands in one partition, and the ledgers of that."""
        path = f"{_topic(topic)}/internalStats"
        what = f"read the place of subscription {subscription} on {topic}"
        found = cursor_places(await self._get(path, what))
        if subscription not in found:
            raise AdminNotFound(f"{what}: there is no such subscription", status=404)
        return found[subscription]

    async def cursor_places(self, topic: str) -> dict[int, dict[str, CursorPlace]]:
        """Where each cursor stands in each partition of a partitioned topic, in one question."""
        path = f"{_topic(topic)}/partitioned-internalStats"
        found = await self._get(path, f"read the cursors of {topic}", retry_for_s=0)
        return {
            int(name.rpartition("-partition-")[2]): cursor_places(each)
            for name, each in found["partitions"].items()
        }

    async def first_since(self, topic: str, time_ms: int) -> tuple[int, int]:
        """Ledger and entry of the first message of one partition published at a time or later.

        Behind the newest one where all are older.
        """
        path = f"{_topic(topic)}/messageid/{time_ms}"
        found = await self._get(path, f"find the messages of {topic} since {time_ms}")
        return int(found["ledgerId"]), int(found["entryId"])

    async def newest_properties(self, topic: str) -> dict[str, str] | None:
        """The properties of the newest message of one partition; None when it holds none."""
        params = {"initialPosition": "latest", "messagePosition": "1"}
        return await self._properties(topic, "examinemessage", params)

    async def waiting_properties(self, topic: str, subscription: str) -> dict[str, str] | None:
        """The properties of the oldest message that waits in one partition; None for none."""
        return await self._properties(topic, f"subscription/{_part(subscription)}/position/1")

    async def properties_at(self, topic: str, position: tuple[int, int]) -> dict[str, str] | None:
        """The properties of a message of one partition; None where there is none."""
        return await self._properties(topic, "ledger/{}/entry/{}".format(*position))

    async def _properties(
        self, topic: str, path: str, params: dict[str, str] | None = None
    ) -> dict[str, str] | None:
        what = f"read a message of {topic}"
        try:
            answer = await self._http.call("GET", f"{_topic(topic)}/{path}", what, params=params)
        except (AdminNotFound, AdminRejected):
            return None
        found: dict[str, str] = json.loads(answer.headers.get("X-Pulsar-PROPERTY") or "{}")
        return found

    async def compact_topic(self, topic: str) -> None:
        """Start a compaction; it runs on in the broker. Conflict: one is running already."""
        await self._http.call("PUT", f"{_topic(topic)}/compaction", f"compact topic {topic}")

    async def set_schema(self, topic: str, type_: str, definition: str) -> None:
        """Register a schema for a topic; does nothing when its newest one is the same.

        Conflict: the namespace's compatibility strategy refuses it after those that are there.
        """
        path = _topic(topic).replace("/admin/v2/persistent/", "/admin/v2/schemas/") + "/schema"
        body = {"type": type_, "schema": definition, "properties": {}}
        await self._http.call("POST", path, f"register the schema of {topic}", body=body)

    # --- cursors

    async def subscriptions(self, topic: str) -> list[str]:
        """The durable cursors of a topic, without the broker's own."""
        what = f"list the subscriptions of {topic}"
        found = await self._get(f"{_topic(topic)}/subscriptions", what)
        return [name for name in found if name != "__compaction"]

    async def create_subscription(
        self, topic: str, subscription: str, *, start: StartPosition = "latest"
    ) -> None:
        """Create a durable cursor; on a partitioned topic one for every partition."""
        if isinstance(start, MessagePosition):
            topic = _addressed(topic, start)
        at = _EARLIEST if start == "earliest" else start
        body = at.body() if isinstance(at, MessagePosition) else None
        path = f"{_topic(topic)}/subscription/{_part(subscription)}"
        what = f"create subscription {subscription} on {topic}"
        await self._http.call("PUT", path, what, body=body)

    async def reset_subscription(
        self, topic: str, subscription: str, *, to: StartPosition | int
    ) -> None:
        """Move a cursor to the start, the end, a message, or a publish time in ms since 1970.

        A message id addresses one partition; start, end and time move all of a topic.
        """
        what = f"reset subscription {subscription} on {topic}"
        if isinstance(to, MessagePosition):
            topic = _addressed(topic, to)
        base = f"{_topic(topic)}/subscription/{_part(subscription)}"
        if isinstance(to, MessagePosition):
            await self._http.call("POST", f"{base}/resetcursor", what, body=to.body())
        elif to == "latest":
            await self._http.call("POST", f"{base}/skip_all", what)
        else:
            timestamp_ms = 0 if to == "earliest" else to
            await self._http.call("POST", f"{base}/resetcursor/{timestamp_ms}", what)

    async def subscription_properties(self, topic: str, subscription: str) -> dict[str, str]:
        """What was noted on a cursor of one partition."""
        path = f"{_topic(topic)}/subscription/{_part(subscription)}/properties"
        what = f"read the properties of subscription {subscription} on {topic}"
        return dict(await self._get(path, what))

    async def set_subscription_properties(
        self, topic: str, subscription: str, properties: dict[str, str]
    ) -> None:
        """Note something on a cursor of one partition, in place of what was noted."""
        path = f"{_topic(topic)}/subscription/{_part(subscription)}/properties"
        what = f"set the properties of subscription {subscription} on {topic}"
        await self._http.call("PUT", path, what, body=properties)

    async def skip_messages(self, topic: str, subscription: str, count: int) -> None:
        """Acknowledge so many of the oldest messages that wait in one partition."""
        path = f"{_topic(topic)}/subscription/{_part(subscription)}/skip/{count}"
        what = f"skip {count} messages of subscription {subscription} on {topic}"
        # Sent again, it would skip as many once more.
        await self._http.call("POST", path, what, once=True)

    async def delete_subscription(
        self, topic: str, subscription: str, *, force: bool = False
    ) -> None:
        """Delete a cursor. Without `force` a connected consumer makes this AdminRejected."""
        path = f"{_topic(topic)}/subscription/{_part(subscription)}"
        what = f"delete subscription {subscription} of {topic}"
        await self._http.call("DELETE", path, what, params={"force": str(force).lower()})

    # --- functions

    async def functions(self, namespace: str) -> list[str]:
        """Short names of the functions of a namespace."""
        path = f"/admin/v3/functions/{namespace}"
        return list(await self._function_get(path, f"list the functions of {namespace}"))

    async def function_config(self, function: str) -> Json:
        """The config as Pulsar echoes it."""
        path = f"/admin/v3/functions/{function}"
        found: Json = await self._function_get(path, f"read function {function}")
        return found

    async def function_status(
        self, function: str, *, retry_for_s: float = _FUNCTIONS_RETRY_FOR_S
    ) -> FunctionStatus:
        """How many instances run. Functions left behind by a broker restart are unavailable."""
        path = f"/admin/v3/functions/{function}/status"
        what = f"read the status of function {function}"
        found = await self._get(path, what, retry_for_s=retry_for_s)
        instances = tuple(instance_status(each) for each in found.get("instances", ()))
        return FunctionStatus(
            expected=int(found.get("numInstances", 0)),
            running=int(found.get("numRunning", 0)),
            instances=instances,
        )

    async def function_stats(self, function: str) -> Json:
        """Pulsar's counters of a function, with its user metrics under `instances[].metrics`."""
        path = f"/admin/v3/functions/{function}/stats"
        found: Json = await self._function_get(path, f"read the statistics of function {function}")
        return found

    async def create_function(
        self, function: str, config: Json, bundle: bytes, bundle_name: str
    ) -> None:
        """Deploy a function; `bundle_name` ends in .zip or .whl and names the bundle's folder."""
        path = f"/admin/v3/functions/{function}"
        what = f"create function {function}"
        files = _multipart(config, bundle, bundle_name)
        answer = await self._upload("POST", path, files)
        if answer.status >= 400 and _PACKAGE_EXISTS.search(answer.reason):
            # The package of a function deleted before stays and blocks its name.
            await self.delete_function_packages(function)
            answer = await self._upload("POST", path, files)
        exists = answer.status >= 400 and "already exists" in answer.reason
        if exists and answer.uncertain:
            return
        if exists:
            raise AdminConflict(
                f"Function {function} exists already; update it instead.",
                status=answer.status,
                reason=answer.reason,
            )
        if answer.status >= 400:
            raise error_of(answer, what)

    async def update_function(
        self,
        function: str,
        config: Json,
        bundle: bytes | None = None,
        bundle_name: str | None = None,
    ) -> bool:
        """Replace the whole config, and the code when `bundle` is given; False: nothing differed.

        Pulsar takes what is absent from `config` as wiped, so always pass all of it.
        """
        path = f"/admin/v3/functions/{function}"
        answer = await self._upload("PUT", path, _multipart(config, bundle, bundle_name))
        if answer.status == 400 and "Update contains no change" in answer.reason:
            return False
        if answer.status >= 400:
            raise error_of(answer, f"update function {function}")
        return True

    async def function_packages(self, function: str) -> list[str]:
        """Versions of the code that the package service keeps for a function.

        Empty where the worker keeps code itself, as it does by default in a cluster. Where it is
        not, as in a standalone broker, an update ignores new code (4.0.8: it stores the old code
        again): replace the function.
        """
        path = f"/admin/v3/packages/function/{function}"
        answer = await self._http.request("GET", path)
        return list(answer.json() or ()) if answer.status < 400 else []

    async def delete_function_packages(self, function: str) -> None:
        """Delete the code that a deleted function left behind, which blocks its name."""
        for version in await self.function_packages(function):
            path = f"/admin/v3/packages/function/{function}/{version}"
            await self._http.request("DELETE", path)

    async def function_code(self, function: str) -> bytes:
        """The bundle that a function was deployed with last."""
        path = f"/admin/v3/functions/{function}/download"
        what = f"download the code of function {function}"
        return (await self._http.call("GET", path, what, timeout_s=_UPLOAD_TIMEOUT_S)).content

    async def _upload(self, method: str, path: str, files: Multipart) -> Answer:
        return await self._http.request(
            method,
            path,
            files=files,
            retry_for_s=_FUNCTIONS_RETRY_FOR_S,
            timeout_s=_UPLOAD_TIMEOUT_S,
        )

    async def delete_function(self, function: str) -> None:
        """Delete a function, and its cursor when `cleanupSubscription` is set."""
        path = f"/admin/v3/functions/{function}"
        what = f"delete function {function}"
        await self._http.call("DELETE", path, what, retry_for_s=_FUNCTIONS_RETRY_FOR_S)

    async def restart_function(self, function: str) -> None:
        """Restart every instance; brings back those that a broker restart left behind."""
        await self._function_action(function, "restart")

    async def stop_function(self, function: str) -> None:
        """Stop every instance, until started again."""
        await self._function_action(function, "stop")

    async def start_function(self, function: str) -> None:
        """Start the instances of a stopped function."""
        await self._function_action(function, "start")

    async def _function_action(self, function: str, action: str) -> None:
        path = f"/admin/v3/functions/{function}/{action}"
        what = f"{action} function {function}"
        # Sent again, it would wait its turn at the worker and stop what has just been started.
        await self._http.call(
            "POST",
            path,
            what,
            retry_for_s=_FUNCTIONS_RETRY_FOR_S,
            timeout_s=_ACTION_TIMEOUT_S,
            once=True,
        )

    async def _function_get(self, path: str, what: str) -> Any:
        return await self._get(path, what, retry_for_s=_FUNCTIONS_RETRY_FOR_S)

    async def wait_healthy(self, *, timeout_s: float) -> None:
        """Return as soon as the broker serves; AdminUnavailable after `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            try:
                await self.check_health()
            except AdminUnavailable:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(0.25)
            else:
                return


def _part(name: str) -> str:
    return quote(name, safe="")


def _topic(topic: str) -> str:
    """The admin path of a full topic name; ValueError for anything else."""
    scheme, separator, rest = topic.partition("://")
    parts = rest.split("/", 2)
    if not separator or scheme not in ("persistent", "non-persistent") or len(parts) != 3:
        raise ValueError(f"{topic!r} is no full topic name: persistent://tenant/namespace/topic")
    return f"/admin/v2/{scheme}/{parts[0]}/{parts[1]}/{_part(parts[2])}"


def _addressed(topic: str, position: MessagePosition) -> str:
    """The topic that holds a message: Pulsar refuses message ids for a partitioned topic."""
    return f"{topic}-partition-{position.partition}" if position.partition >= 0 else topic


def _multipart(config: Json, bundle: bytes | None, bundle_name: str | None) -> Multipart:
    encoded = json.dumps(config).encode()
    parts: Multipart = {"functionConfig": (None, encoded, "application/json")}
    if bundle is not None:
        parts["data"] = (bundle_name or "bundle.zip", bundle, "application/octet-stream")
    return parts
