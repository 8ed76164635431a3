"""The namespace policies that the topology manages: one table for reading, comparing and writing.

A policy is held as flat attributes in Pulsar's own units, `{"retention.size_mb": 4096, …}`, so
that a difference can be shown attribute by attribute. A policy of this table that a namespace
does not name is meant to be unset, and is drift when somebody sets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Policy:
    """One policy: where Pulsar's namespace document holds it and how it is set and removed."""

    name: str
    endpoint: str
    fields: Mapping[str, tuple[str, ...]]
    method: Literal["POST", "PUT"] = "POST"
    params: Mapping[str, str] = field(default_factory=dict)
    scalar: bool = False
    unset_by: Any = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    normal: Callable[[Any], Any] = lambda value: value

    def read(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """This policy's attributes in a namespace document; empty when it is unset."""
        found: dict[str, Any] = {}
        for attribute, path in self.fields.items():
            value: Any = document
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            value = self.normal(value)
            if value is not None and not (self.unset_by is not None and value == self.unset_by):
                found[f"{self.name}.{attribute}"] = value
        return found

    def body(self, attributes: Attributes) -> Any:
        """The request body that sets these attributes."""
        if self.scalar:
            (attribute,) = self.fields
            return attributes[f"{self.name}.{attribute}"]
        body = dict(self.fixed)
        for attribute, path in self.fields.items():
            body[path[-1]] = attributes[f"{self.name}.{attribute}"]
        return body

    def part(self, attributes: Attributes) -> dict[str, Any]:
        """Those of a namespace's attributes that belong to this policy."""
        return {key: attributes[key] for key in sorted(attributes) if key in self.keys}

    @property
    def keys(self) -> frozenset[str]:
        """The names of its attributes."""
        return frozenset(f"{self.name}.{attribute}" for attribute in self.fields)


_QUOTAS: Final = "backlog_quota_map"

POLICIES: Final[tuple[Policy, ...]] = (
    Policy(
        "retention",
        "retention",
        {
            "time_minutes": ("retention_policies", "retentionTimeInMinutes"),
            "size_mb": ("retention_policies", "retentionSizeInMB"),
        },
    ),
    Policy(
        "backlog_size",
        "backlogQuota",
        {
            "limit_bytes": (_QUOTAS, "destination_storage", "limitSize"),
            "policy": (_QUOTAS, "destination_storage", "policy"),
        },
        params={"backlogQuotaType": "destination_storage"},
    ),
    Policy(
        "backlog_age",
        "backlogQuota",
        {
            "limit_seconds": (_QUOTAS, "message_age", "limitTime"),
            "policy": (_QUOTAS, "message_age", "policy"),
        },
        params={"backlogQuotaType": "message_age"},
    ),
    Policy("message_ttl", "messageTTL", {"seconds": ("message_ttl_in_seconds",)}, scalar=True),
    Policy("deduplication", "deduplication", {"enabled": ("deduplicationEnabled",)}, scalar=True),
    Policy(
        "compaction_threshold",
        "compactionThreshold",
        {"bytes": ("compaction_threshold",)},
        method="PUT",
        scalar=True,
    ),
    Policy(
        "persistence",
        "persistence",
        {
            "ensemble": ("persistence", "bookkeeperEnsemble"),
            "write_quorum": ("persistence", "bookkeeperWriteQuorum"),
            "ack_quorum": ("persistence", "bookkeeperAckQuorum"),
            "mark_delete_rate": ("persistence", "managedLedgerMaxMarkDeleteRate"),
        },
    ),
    Policy(
        "schema_compatibility",
        "schemaCompatibilityStrategy",
        {"strategy": ("schema_compatibility_strategy",)},
        method="PUT",
        scalar=True,
        unset_by="UNDEFINED",
    ),
    Policy(
        "auto_topic_creation",
        "autoTopicCreation",
        {"allowed": ("autoTopicCreationOverride", "allowAutoTopicCreation")},
    ),
    Policy(
        "auto_subscription_creation",
        "autoSubscriptionCreation",
        {"allowed": ("autoSubscriptionCreationOverride", "allowAutoSubscriptionCreation")},
    ),
    Policy(
        "inactive_topics",
        "inactiveTopicPolicies",
        {"delete": ("inactive_topic_policies", "deleteWhileInactive")},
        fixed={
            "inactiveTopicDeleteMode": "delete_when_no_subscriptions",
            "maxInactiveDurationSeconds": 60,
        },
    ),
    Policy(
        "subscription_auth_mode",
        "subscriptionAuthMode",
        {"mode": ("subscription_auth_mode",)},
        scalar=True,
        unset_by="None",
    ),
    Policy(
        "subscription_expiration",
        "subscriptionExpirationTime",
        {"minutes": ("subscription_expiration_time_minutes",)},
        scalar=True,
    ),
)

_GRANTS: Final = "grants."

_UNLIMITED: Final = {"retention.time_minutes": -1, "retention.size_mb": -1}

BY_NAME: Final = {policy.name: policy for policy in POLICIES}


def read_policies(document: Mapping[str, Any]) -> dict[str, Any]:
    """All managed attributes in Pulsar's namespace document.

    >>> read_policies({"message_ttl_in_seconds": 60, "latency_stats_sample_rate": {}})
    {'message_ttl.seconds': 60}
    """
    return {key: value for policy in POLICIES for key, value in policy.read(document).items()}


def read_grants(document: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """What roles may do on every topic of a namespace, as attributes.

    >>> read_grants({"auth_policies": {"namespace_auth": {"feed-1": ["produce"]}}})
    {'grants.feed-1': ('produce',)}
    """
    granted = (document.get("auth_policies") or {}).get("namespace_auth") or {}
    return grant_attributes({role: tuple(sorted(actions)) for role, actions in granted.items()})


def grant_attributes(grants: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Grants by role as attributes by `grants.<role>`."""
    return {f"{_GRANTS}{role}": actions for role, actions in sorted(grants.items())}


def grant_steps(old: Attributes, grants: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Role to the actions that it shall have, for every role to change; none takes all away."""
    new = grant_attributes(grants)
    names = {name for name in (*old, *new) if name.startswith(_GRANTS)}
    return {
        name.removeprefix(_GRANTS): list(new.get(name, ()))
        for name in sorted(names)
        if old.get(name) != new.get(name)
    }


def policy_steps(old: Attributes, new: Attributes) -> list[tuple[Policy, dict[str, Any]]]:
    """What leads from one set of policies to another, in an order that Pulsar accepts.

    A step with no attributes removes the policy. Pulsar refuses a backlog quota that is not below
    the retention at every step in between, and any quota of age while the retention has a size
    (4.0.8 compares the wrong quota). So where both change, the retention is without limits in
    between and set last; it is never shorter than the old or the new one, which would lose data.
    """
    changed = [policy for policy in POLICIES if policy.part(old) != policy.part(new)]
    retention, size, age = (BY_NAME[each] for each in ("retention", "backlog_size", "backlog_age"))
    steps = [(policy, policy.part(new)) for policy in changed if policy is not retention]
    quotas_move = size in changed or age in changed
    opened = bool(retention.part(old)) and quotas_move and (retention in changed or age in changed)
    if opened:
        steps.insert(0, (retention, _UNLIMITED))
    if opened or retention in changed:
        steps.append((retention, retention.part(new)))
    return steps
