"""The difference between a topology and a cluster, as a list of changes. Pure.

    desired, actual ──► diff ──► [Change, …] in the order in which they are applied

Applying all changes of a difference makes the next difference empty. What the topology does not
name is left alone, unless `prune` asks for its removal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from control_plane.topology.function_config import (
    attributes_of,
    forces_replacement,
    pulsar_config,
)
from control_plane.topology.model import (
    Actual,
    FunctionSpec,
    FunctionState,
    Namespace,
    Subscription,
    Tenant,
    Topic,
    TopicState,
    Topology,
    namespace_of,
)
from control_plane.topology.policies import grant_attributes

Action = Literal["create", "update", "replace", "delete", "restart", "refuse"]
Kind = Literal["tenant", "namespace", "topic", "subscription", "function"]

PROCEDURE: Final = "docs/partitions.md"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute that differs; None stands for absent."""

    name: str
    old: Any
    new: Any
    forces_replacement: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One step from actual to desired; a refused one stops the whole apply before it starts."""

    action: Action
    kind: Kind
    name: str
    attributes: tuple[Attribute, ...] = ()
    reason: str = ""
    desired: Tenant | Namespace | Topic | Subscription | FunctionSpec | None = field(
        default=None, repr=False
    )
    actual: Tenant | Mapping[str, Any] | TopicState | FunctionState | None = field(
        default=None, repr=False
    )


def diff(desired: Topology, actual: Actual, *, prune: bool = False) -> list[Change]:
    """What makes the cluster match: creations and updates first, removals last.

    Functions that read what others write come before these: they must know what is new in it.
    """
    changes = [
        *_tenants(desired, actual),
        *_namespaces(desired, actual),
        *_topics(desired, actual),
        *_subscriptions(desired, actual),
        *_functions(desired, actual),
    ]
    return [*changes, *_pruned(desired, actual)] if prune else changes


def destruction(desired: Topology, actual: Actual, *, prune: bool = False) -> list[Change]:
    """What removes everything that the topology names, and with `prune` its neighbours too."""
    functions = [
        _delete("function", name, state)
        for name, state in sorted(actual.functions.items())
        if name in desired.functions
    ]
    topics = [
        _delete("topic", name, state)
        for name, state in sorted(actual.topics.items())
        if name in desired.topics or desired.is_dynamic(name)
    ]
    namespaces = [
        _delete("namespace", name, actual.namespaces[name])
        for name in sorted(desired.namespaces)
        if name in actual.namespaces
    ]
    tenants = [
        _delete("tenant", name, actual.tenants[name])
        for name in sorted(desired.tenants)
        if name in actual.tenants
    ]
    extra = [each for each in _pruned(desired, actual) if prune and each.kind != "subscription"]
    order = ("function", "topic", "namespace")
    removed = sorted(
        [*functions, *topics, *namespaces, *extra], key=lambda each: order.index(each.kind)
    )
    return [*removed, *tenants]


def summary(changes: list[Change]) -> tuple[int, int, int]:
    """How many things are added, changed and destroyed; a replacement is one of each end."""
    added = sum(each.action in ("create", "replace") for each in changes)
    changed = sum(each.action in ("update", "restart") for each in changes)
    destroyed = sum(each.action in ("delete", "replace") for each in changes)
    return added, changed, destroyed


def _tenants(desired: Topology, actual: Actual) -> Iterator[Change]:
    for name, tenant in sorted(desired.tenants.items()):
        clusters = tenant.allowed_clusters or tuple(sorted(actual.clusters))
        new = {"admin_roles": tenant.admin_roles, "allowed_clusters": clusters}
        wanted = Tenant(name, tenant.admin_roles, clusters)
        found = actual.tenants.get(name)
        if found is None:
            yield Change("create", "tenant", name, _attributes({}, new), desired=wanted)
            continue
        old = {"admin_roles": found.admin_roles, "allowed_clusters": found.allowed_clusters}
        if attributes := _attributes(old, new):
            yield Change("update", "tenant", name, attributes, desired=wanted, actual=found)


def _namespaces(desired: Topology, actual: Actual) -> Iterator[Change]:
    for name, namespace in sorted(desired.namespaces.items()):
        found = actual.namespaces.get(name)
        wanted = namespace if actual.authorization else replace(namespace, grants={})
        new = {**wanted.policies, **grant_attributes(wanted.grants)}
        if found is None:
            new = {"bundles": wanted.bundles, **new}
            yield Change("create", "namespace", name, _attributes({}, new), desired=wanted)
        elif attributes := _attributes(found, new):
            yield Change("update", "namespace", name, attributes, desired=wanted, actual=found)


def _topics(desired: Topology, actual: Actual) -> Iterator[Change]:
    for name, topic in sorted(desired.topics.items()):
        found = actual.topics.get(name)
        new: dict[str, Any] = {"partitions": topic.partitions}
        if found is None:
            yield Change("create", "topic", name, _attributes({}, new), desired=topic)
            continue
        old: dict[str, Any] = {"partitions": found.partitions}
        if found.missing:
            old["missing_partitions"] = found.missing
        attributes = _attributes(old, new)
        if not attributes:
            continue
        reason = _refusal(topic, found)
        action: Action = "refuse" if reason else "update"
        yield Change(action, "topic", name, attributes, reason, desired=topic, actual=found)


def _refusal(topic: Topic, found: TopicState) -> str:
    """Why the partitions of an existing topic cannot become what is declared; empty if they can."""
    old, new = found.partitions, topic.partitions
    if old == new:
        return ""
    if (old == 0) != (new == 0):
        return (
            "a partitioned topic cannot become a plain one, nor the other way round; delete the "
            f"topic with its data first, or declare it as it is (see {PROCEDURE})"
        )
    if new < old:
        return f"Pulsar cannot take partitions away; follow {PROCEDURE}"
    if topic.keyed:
        return (
            "more partitions would move instruments to other partitions and break their order and "
            f"their sequences; run `deploy_functions.py grow --partitions {new}` (see {PROCEDURE})"
        )
    return ""


def _subscriptions(desired: Topology, actual: Actual) -> Iterator[Change]:
    deployed = {
        spec.subscription for name, spec in desired.functions.items() if name in actual.functions
    }
    for each in desired.subscriptions:
        if (each.topic, each.name) not in actual.subscriptions:
            # One that was lost begins where nothing is missing: its function skips what views have.
            wanted = replace(each, position="earliest") if each.name in deployed else each
            attributes = _attributes({}, {"position": wanted.position})
            yield Change(
                "create", "subscription", subscription_name(each), attributes, desired=wanted
            )


def _functions(desired: Topology, actual: Actual) -> Iterator[Change]:
    for spec in desired.readers_first():
        name, with_code = spec.name, spec.bundle is not None
        new = attributes_of(pulsar_config(spec), with_code=with_code)
        found = actual.functions.get(name)
        if found is None:
            yield Change("create", "function", name, _attributes({}, new), desired=spec)
            continue
        old = attributes_of(found.config, with_code=with_code)
        attributes = tuple(
            Attribute(
                each.name,
                each.old,
                each.new,
                forces_replacement(
                    each.name, each.old, each.new, code_is_fixed=found.code_is_fixed
                ),
            )
            for each in _attributes(old, new)
        )
        if attributes:
            replaced = any(each.forces_replacement for each in attributes)
            action: Action = "replace" if replaced else "update"
            yield Change(action, "function", name, attributes, desired=spec, actual=found)
        elif found.running_instances < spec.parallelism:
            running = (Attribute("running_instances", found.running_instances, spec.parallelism),)
            reason = "its config is right, but not every instance runs"
            yield Change("restart", "function", name, running, reason, desired=spec, actual=found)


def _pruned(desired: Topology, actual: Actual) -> Iterator[Change]:
    """What the cluster has beside the topology, within the tenants and namespaces it names."""
    homes = set(desired.namespaces) | {name.rsplit("/", 1)[0] for name in desired.functions}
    for name, state in sorted(actual.functions.items()):
        if name not in desired.functions and name.rsplit("/", 1)[0] in homes:
            yield _delete("function", name, state)
    wanted = {(each.topic, each.name) for each in desired.subscriptions}
    for topic, subscription in sorted(actual.subscriptions - wanted):
        namespace = desired.namespaces.get(namespace_of(topic))
        closed = namespace is not None and (
            namespace.policies.get("auto_subscription_creation.allowed") is False
        )
        if closed and topic in desired.topics:
            extra = Subscription(topic, subscription)
            yield Change("delete", "subscription", subscription_name(extra), desired=extra)
    for name, topic_state in sorted(actual.topics.items()):
        known = name in desired.topics or desired.is_dynamic(name)
        if not known and namespace_of(name) in desired.namespaces:
            yield _delete("topic", name, topic_state)
    for name, policies in sorted(actual.namespaces.items()):
        if name not in desired.namespaces and name.split("/", 1)[0] in desired.tenants:
            yield _delete("namespace", name, policies)


def _delete(
    kind: Kind, name: str, actual: Tenant | Mapping[str, Any] | TopicState | FunctionState
) -> Change:
    return Change("delete", kind, name, actual=actual)


def subscription_name(subscription: Subscription) -> str:
    """The name of a subscription in plans and events: its topic and its own name."""
    return f"{subscription.topic} @ {subscription.name}"


def _attributes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Attribute, ...]:
    return tuple(
        Attribute(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    )
