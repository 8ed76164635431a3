"""Carries changes out on a cluster, in their order, and puts functions back when one fails.

A function counts as deployed when Pulsar echoes the config that was sent and every instance has
run for a while. When a change fails, the functions updated in the same run get their config from
before again, with their code from before when that had changed: they share one contract, so they
go back together. What was already done to namespaces and topics stays; applying again goes on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from control_plane.pulsar_admin import (
    AdminConflict,
    AdminError,
    AdminNotFound,
    AdminUnavailable,
    PulsarAdmin,
)
from control_plane.topology.bundle import bundle_of
from control_plane.topology.diff import Change
from control_plane.topology.function_config import attributes_of, pulsar_config, updated_config
from control_plane.topology.model import (
    BUNDLE_DIGEST,
    Bundle,
    FunctionSpec,
    FunctionState,
    Namespace,
    Subscription,
    Tenant,
    Topic,
    TopicState,
)
from control_plane.topology.policies import grant_steps, policy_steps
from marketdata.errors import DistributionError

Stage = Literal["started", "waiting", "done", "failed", "rolling_back", "rolled_back"]
_POLL_S = 0.25
_STATUS_RETRY_FOR_S = 1.0
_CRASHES = 3
"""An instance that ends so often is not just slow to start on a busy machine, or killed."""
_OLD_ANSWERS_S = 5.0
"""For so long the worker may still answer for the processes from before a change."""


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of one change, for people and logs."""

    stage: Stage
    change: Change
    detail: str = ""
    elapsed_s: float = 0.0


OnEvent = Callable[[Event], None]


class ApplyError(DistributionError):
    """A change could not be carried out. Remove the cause it names, then apply again."""

    def __init__(self, change: Change, cause: str, rolled_back: tuple[str, ...] = ()) -> None:
        self.change = change
        self.cause = cause
        self.rolled_back = rolled_back
        after = f" Rolled back: {', '.join(rolled_back)}." if rolled_back else ""
        super().__init__(f"{change.action} {change.kind} {change.name} failed: {cause}{after}")


@dataclass(frozen=True, slots=True)
class _Previous:
    """A function as it was before this run changed it."""

    change: Change
    config: Mapping[str, Any]
    bundle: Bundle | None
    replaced: bool


class _Applier:
    def __init__(
        self,
        admin: PulsarAdmin,
        timeout_s: float,
        settle_s: float,
        roll_back: bool,
        on_event: OnEvent | None,
    ) -> None:
        self.admin = admin
        self.timeout_s = timeout_s
        self.settle_s = settle_s
        self.roll_back = roll_back
        self._on_event = on_event
        self.previous: list[_Previous] = []

    def tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)

    async def run(self, changes: list[Change]) -> None:
        for change in changes:
            began_s = time.monotonic()
            self.tell(Event("started", change))
            try:
                await self._carry_out(change)
            except (DistributionError, asyncio.CancelledError) as error:
                elapsed_s = time.monotonic() - began_s
                cause = str(error) or "interrupted"
                self.tell(Event("failed", change, cause, elapsed_s))
                rolled_back = await self._roll_back() if self.roll_back else ()
                if isinstance(error, asyncio.CancelledError):
                    raise
                raise ApplyError(change, cause, rolled_back) from error
            self.tell(Event("done", change, elapsed_s=time.monotonic() - began_s))

    async def _carry_out(self, change: Change) -> None:
        match change.kind:
            case "tenant":
                await self._tenant(change)
            case "namespace":
                await self._namespace(change)
            case "topic":
                await self._topic(change)
            case "subscription":
                await self._subscription(change)
            case "function":
                await self._function(change)

    async def _tenant(self, change: Change) -> None:
        if change.action == "delete":
            await self.admin.delete_tenant(change.name)
            return
        tenant = cast(Tenant, change.desired)
        put = self.admin.create_tenant if change.action == "create" else self.admin.update_tenant
        await put(tenant.name, list(tenant.allowed_clusters), list(tenant.admin_roles))

    async def _namespace(self, change: Change) -> None:
        if change.action == "delete":
            await self.admin.delete_namespace(change.name)
            return
        namespace = cast(Namespace, change.desired)
        if change.action == "create":
            await self.admin.create_namespace(change.name, bundles=namespace.bundles)
        old = cast(Mapping[str, Any], change.actual or {})
        # First of all: a function may be waiting for what it is to be allowed.
        for role, actions in grant_steps(old, namespace.grants).items():
            await self.admin.set_namespace_grant(change.name, role, actions)
        for policy, attributes in policy_steps(old, namespace.policies):
            params = dict(policy.params)
            if attributes:
                await self.admin.set_namespace_policy(
                    change.name,
                    policy.endpoint,
                    policy.body(attributes),
                    method=policy.method,
                    params=params,
                )
            elif policy.unset_by is not None:
                await self.admin.set_namespace_policy(
                    change.name, policy.endpoint, policy.unset_by, method=policy.method
                )
            else:
                await self.admin.remove_namespace_policy(
                    change.name, policy.endpoint, params=params
                )

    async def _topic(self, change: Change) -> None:
        if change.action == "delete":
            state = cast(TopicState, change.actual)
            await self.admin.delete_topic(change.name, partitioned=state.partitions > 0, force=True)
            return
        topic = cast(Topic, change.desired)
        if change.action == "create":
            await self.admin.create_topic(topic.name, partitions=topic.partitions)
            return
        state = cast(TopicState, change.actual)
        if state.missing:
            await self.admin.create_missed_partitions(topic.name)
        if topic.partitions > state.partitions:
            await self.admin.update_partitions(topic.name, topic.partitions)

    async def _subscription(self, change: Change) -> None:
        subscription = cast(Subscription, change.desired)
        if change.action == "delete":
            await self.admin.delete_subscription(subscription.topic, subscription.name, force=True)
            return
        start: Literal["earliest", "latest"] = (
            "earliest" if subscription.position == "earliest" else "latest"
        )
        try:
            await self.admin.create_subscription(subscription.topic, subscription.name, start=start)
        except AdminConflict:
            # Some partitions have it: a partitioned topic gets the rest one by one.
            for index in range(await self.admin.partitions(subscription.topic)):
                part = f"{subscription.topic}-partition-{index}"
                if subscription.name not in await self.admin.subscriptions(part):
                    await self.admin.create_subscription(part, subscription.name, start=start)

    async def _function(self, change: Change) -> None:
        if change.action == "delete":
            await self._delete_function(change.name, cast(FunctionState, change.actual).config)
            return
        spec = cast(FunctionSpec, change.desired)
        if change.action == "restart":
            await self._restart(change, spec)
            return
        if change.action == "create":
            await self._create(change.name, pulsar_config(spec), spec.bundle)
        else:
            await self._remember(change, spec)
            state = cast(FunctionState, change.actual)
            config = updated_config(spec, state.config)
            if change.action == "replace":
                await self._delete_function(change.name, state.config)
                await self._create(change.name, config, spec.bundle or self._last_code(change))
            else:
                digest = (state.config.get("userConfig") or {}).get(BUNDLE_DIGEST)
                new = spec.bundle if spec.bundle and spec.bundle.digest != digest else None
                await self._update(change.name, config, new)
        await self._wait_running(change, spec.parallelism)
        await self._check_echo(change.name, spec)
        if spec.bundle and await self.admin.function_code(change.name) != spec.bundle.content:
            raise DistributionError(
                "Pulsar accepted the config but kept the code from before; delete the function "
                "and apply again"
            )

    async def _remember(self, change: Change, spec: FunctionSpec) -> None:
        config = cast(FunctionState, change.actual).config
        digest = (config.get("userConfig") or {}).get(BUNDLE_DIGEST)
        replaced = change.action == "replace"
        bundle = None
        if replaced or (spec.bundle is not None and spec.bundle.digest != digest):
            try:
                bundle = bundle_of(await self.admin.function_code(change.name), str(digest))
            except (AdminError, ValueError):
                # Code that cannot be had is no reason to refuse its repair.
                bundle = None
        self.previous.append(_Previous(change, config, bundle, replaced))

    def _last_code(self, change: Change) -> Bundle | None:
        return next((each.bundle for each in self.previous if each.change is change), None)

    async def _create(self, name: str, config: Mapping[str, Any], bundle: Bundle | None) -> None:
        if bundle is None:
            raise DistributionError(
                f"there is no code for {name}; build the bundle with `deploy_functions.py bundle` "
                "and pass it, or deploy with `deploy_functions.py apply`"
            )
        deadline = time.monotonic() + self.timeout_s
        while True:
            try:
                await self.admin.create_function(name, dict(config), bundle.content, bundle.name)
            except AdminConflict:
                # The worker forgets a deleted function a moment after it said so.
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(_POLL_S)
            else:
                return

    async def _update(self, name: str, config: Mapping[str, Any], bundle: Bundle | None) -> None:
        content, file = (bundle.content, bundle.name) if bundle else (None, None)
        await self.admin.update_function(name, dict(config), content, file)

    async def _delete_function(self, name: str, config: Mapping[str, Any]) -> None:
        """Delete a function, keeping its cursor: its successor goes on where it stopped."""
        if config.get("cleanupSubscription") is not False:
            await self._update(name, {**config, "cleanupSubscription": False}, None)
        await self.admin.delete_function(name)
        deadline = time.monotonic() + self.timeout_s
        while time.monotonic() < deadline:
            try:
                await self.admin.function_config(name)
            except AdminNotFound:
                await self.admin.delete_function_packages(name)
                return
            await asyncio.sleep(_POLL_S)

    async def _restart(self, change: Change, spec: FunctionSpec) -> None:
        await self.admin.restart_function(change.name)
        await self._wait_running(change, spec.parallelism)

    async def _wait_running(self, change: Change, expected: int) -> None:
        """Return when all instances have run for `settle_s` without a break.

        The worker answers for the old processes until it has replaced them, so one good answer
        proves nothing.
        """
        began_s = time.monotonic()
        deadline = began_s + self.timeout_s
        good_since_s: float | None = None
        told = ""
        while True:
            state, good, crashed = await self._look(change.name, expected)
            now_s = time.monotonic()
            good_since_s = (good_since_s or now_s) if good else None
            if good_since_s is not None and now_s - good_since_s >= self.settle_s:
                return
            if (crashed and now_s - began_s > _OLD_ANSWERS_S) or now_s > deadline:
                where = change.name.replace("/", ".")
                raise AdminUnavailable(
                    f"not every instance runs ({state}). The reason is in the functions worker's "
                    f"log folder, below functions/{change.name}/ ({where}). Correct the code or "
                    "its config, or give it more time with --timeout."
                )
            if state != told:
                told = state
                self.tell(Event("waiting", change, state))
            await asyncio.sleep(_POLL_S)

    async def _look(self, name: str, expected: int) -> tuple[str, bool, bool]:
        """A description, whether all instances run, and whether one crashed for good."""
        try:
            status = await self.admin.function_status(name, retry_for_s=_STATUS_RETRY_FOR_S)
        except (AdminUnavailable, AdminNotFound) as error:
            return f"0 of {expected} run, {error.reason or 'no status'}", False, False
        problems = "; ".join(
            f"instance {each.instance}: {each.error}" for each in status.instances if each.error
        )
        good = status.expected == expected and status.all_running
        crashed = any(each.restarts >= _CRASHES and not each.running for each in status.instances)
        text = f"{status.running} of {expected} run" + (f", {problems}" if problems else "")
        return text, good, crashed

    async def _check_echo(self, name: str, spec: FunctionSpec) -> None:
        """Pulsar accepts fields and values that it then ignores; nothing else would tell."""
        with_code = spec.bundle is not None
        sent = attributes_of(pulsar_config(spec), with_code=with_code)
        echo = attributes_of(await self.admin.function_config(name), with_code=with_code)
        wrong = [key for key in sorted(sent | echo) if sent.get(key) != echo.get(key)]
        if wrong:
            shown = ", ".join(f"{key} is {echo.get(key)!r} not {sent.get(key)!r}" for key in wrong)
            raise DistributionError(f"Pulsar accepted the config but did not take it: {shown}")

    async def _roll_back(self) -> tuple[str, ...]:
        rolled_back: list[str] = []
        for previous in reversed(self.previous):
            change = previous.change
            self.tell(Event("rolling_back", change))
            config = {**previous.config}
            if previous.bundle is not None:
                config["py"] = previous.bundle.name
            try:
                if previous.replaced:
                    await self._recreate(change.name, config, previous.bundle)
                else:
                    await self._update(change.name, config, previous.bundle)
                await self._wait_running(change, int(config.get("parallelism", 1)))
            except DistributionError as error:
                self.tell(Event("failed", change, f"rollback: {error}"))
            else:
                rolled_back.append(change.name)
                self.tell(Event("rolled_back", change))
        return tuple(reversed(rolled_back))

    async def _recreate(self, name: str, config: Mapping[str, Any], bundle: Bundle | None) -> None:
        try:
            present = await self.admin.function_config(name)
        except AdminNotFound:
            pass
        else:
            await self._delete_function(name, present)
        await self._create(name, config, bundle)


async def apply(
    admin: PulsarAdmin,
    changes: list[Change],
    *,
    timeout_s: float = 90.0,
    settle_s: float = 2.0,
    roll_back: bool = True,
    on_event: OnEvent | None = None,
) -> None:
    """Carry out the changes of a difference, one after the other.

    Args:
        admin: the cluster.
        changes: what `diff` or `destruction` gave for it.
        timeout_s: how long the instances of one function may take to run.
        settle_s: how long they must run without a break to count as running.
        roll_back: whether functions get their config from before again when one fails.
        on_event: called with every step.

    Raises:
        ApplyError: at the first change that fails, after the roll-back of the functions if any; or,
            before anything is touched, at a change that is refused.
    """
    for change in changes:
        if change.action == "refuse":
            raise ApplyError(change, change.reason)
    await _Applier(admin, timeout_s, settle_s, roll_back, on_event).run(changes)
