"""What the topology wants and what the cluster has, as plain values.

Names are full: `tenant/namespace`, `persistent://tenant/namespace/topic`,
`tenant/namespace/function`. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Final

from marketdata.lanes import DEFAULT_LANE
from marketdata.ordering import SourcePolicy

ROUTE: Final = "route"
"""The operator of functions that serve views."""

BUNDLE_DIGEST: Final = "bundle_digest"


@dataclass(frozen=True, slots=True)
class Bundle:
    """The functions' code: a zip whose one top folder is `name` without its suffix."""

    name: str
    digest: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant; `allowed_clusters` empty means every cluster that there is."""

    name: str
    admin_roles: tuple[str, ...] = ()
    allowed_clusters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Namespace:
    """A namespace with its policies in the flat form of `control_plane.topology.policies`.

    Topics whose last name part matches `dynamic_topics` are made by the control plane while it
    runs; they are neither drift nor pruned.
    """

    name: str
    policies: Mapping[str, Any] = field(default_factory=dict)
    dynamic_topics: str = ""
    bundles: int = 4
    grants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What roles may do on all of its topics, where the broker asks who they are."""

    def is_dynamic(self, topic: str) -> bool:
        """Whether a topic of this namespace belongs to the control plane."""
        return bool(self.dynamic_topics) and fnmatchcase(
            topic.rsplit("/", 1)[-1], self.dynamic_topics
        )


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic; `partitions` is 0 for one that is not partitioned.

    `keyed`: an event's partition follows from its instrument, so the count grows by a procedure.
    """

    name: str
    partitions: int = 0
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """The durable cursor of a function on one of its inputs, made before the function."""

    topic: str
    name: str
    position: str = "earliest"


@dataclass(frozen=True, slots=True)
class Input:
    """One input topic of a function and how it is read."""

    topic: str
    serde: str
    receiver_queue_size: int


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A function as it is to be deployed. Without a `bundle` its code is left as it is."""

    name: str
    class_name: str
    parallelism: int
    inputs: tuple[Input, ...]
    subscription: str
    cpu: float
    ram_bytes: int
    disk_bytes: int
    processing_guarantees: str = "MANUAL"
    retain_ordering: bool = True
    subscription_position: str = "earliest"
    log_topic: str = ""
    user_config: Mapping[str, Any] = field(default_factory=dict)
    bundle: Bundle | None = None

    @property
    def writes(self) -> frozenset[str]:
        """The topics that it is given beside its inputs."""
        named = self.user_config.get("topics", {})
        return frozenset(named.values()) - {each.topic for each in self.inputs}

    def with_bundle(self, bundle: Bundle) -> FunctionSpec:
        """The same with this code."""
        user_config = {**self.user_config, BUNDLE_DIGEST: bundle.digest}
        return replace(self, bundle=bundle, user_config=user_config)


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything the YAML files of one folder declare."""

    partitions: int
    tenants: Mapping[str, Tenant]
    namespaces: Mapping[str, Namespace]
    topics: Mapping[str, Topic]
    functions: Mapping[str, FunctionSpec]
    topic_names: Mapping[str, str] = field(default_factory=dict)
    """The id of a topic in the YAML (`ingest`, `plans` …) to its full name."""
    sources: Mapping[str, SourcePolicy] = field(default_factory=dict)
    """What happens to events that are out of order, by a source's name or pattern."""
    epoch_floor: int = 1
    """The least epoch of the sequences."""

    @property
    def lanes(self) -> dict[str, str]:
        """The names of the functions that serve views, by lane (`marketdata.lanes`)."""
        return {
            str(function.user_config.get("lane", DEFAULT_LANE)): name
            for name, function in self.functions.items()
            if ROUTE in function.user_config.get("operators", ())
        }

    @property
    def lane_subscriptions(self) -> dict[str, str]:
        """The Pulsar subscriptions by which functions read the log that serve views, by lane."""
        return {lane: self.functions[name].subscription for lane, name in self.lanes.items()}

    @property
    def subscriptions(self) -> tuple[Subscription, ...]:
        """The cursors that the functions read with."""
        return tuple(
            Subscription(each.topic, function.subscription, function.subscription_position)
            for function in self.functions.values()
            for each in function.inputs
        )

    def readers_first(self) -> list[FunctionSpec]:
        """The functions, those that read what others write before these, else as declared."""
        ordered: dict[str, FunctionSpec] = {}
        seen: set[str] = set()

        def add(writer: FunctionSpec) -> None:
            if writer.name in seen:
                return
            seen.add(writer.name)
            for reader in self.functions.values():
                if any(each.topic in writer.writes for each in reader.inputs):
                    add(reader)
            ordered[writer.name] = writer

        for function in self.functions.values():
            add(function)
        return list(ordered.values())

    def is_dynamic(self, topic: str) -> bool:
        """Whether a topic is one of those that the control plane makes while it runs."""
        namespace = self.namespaces.get(namespace_of(topic))
        return namespace is not None and namespace.is_dynamic(topic)

    def with_bundle(self, bundle: Bundle) -> Topology:
        """The same with this code for every function."""
        functions = {
            name: function.with_bundle(bundle) for name, function in self.functions.items()
        }
        return replace(self, functions=functions)

    def only_functions(self) -> Topology:
        """The functions alone, for a caller that may not touch the rest."""
        return replace(self, tenants={}, namespaces={}, topics={})


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic of the cluster; `missing` are partitions that somebody deleted one by one."""

    name: str
    partitions: int = 0
    missing: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionState:
    """A deployed function: the config that Pulsar echoes, and its instances."""

    name: str
    config: Mapping[str, Any]
    expected_instances: int = 0
    running_instances: int = 0
    restarts: int = 0
    """How often the worker has started instances again that had ended, all together."""
    code_is_fixed: bool = False
    """An update ignores new code, so that new code means a new function."""


@dataclass(frozen=True, slots=True)
class Actual:
    """What a cluster has, as far as a topology is about it."""

    clusters: tuple[str, ...] = ()
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    namespaces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    topics: Mapping[str, TopicState] = field(default_factory=dict)
    subscriptions: frozenset[tuple[str, str]] = frozenset()
    """Topic and subscription name, of the declared topics."""
    functions: Mapping[str, FunctionState] = field(default_factory=dict)
    authorization: bool = False
    """Whether the broker asks who may do what; grants matter only then."""


def namespace_of(topic: str) -> str:
    """The namespace in a full topic name.

    >>> namespace_of("persistent://marketdata/ingest/events")
    'marketdata/ingest'
    """
    return topic.split("://", 1)[1].rsplit("/", 1)[0]
