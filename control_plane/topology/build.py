"""From well-formed declarations to a `Topology`: units, references and what Pulsar would refuse."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

import msgspec

from control_plane.topology.model import (
    ROUTE,
    FunctionSpec,
    Input,
    Namespace,
    Tenant,
    Topic,
    Topology,
)
from marketdata.lanes import DEFAULT_LANE, delay_of, followed_by
from marketdata.ordering import SourcePolicy

_UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_UNIT_BYTES: Final = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DEFAULT_RAM_BYTES: Final = 1 << 30
_DEFAULT_DISK_BYTES: Final = 1 << 30
_SEQUENCE: Final = "sequence"
"""The operator that looks at the order of the sources."""

_OWN_KEYS: Final = frozenset(
    {
        "bundle_digest",
        "elsewhere",
        "epoch",
        "lane",
        "log_level",
        "operators",
        "partitions",
        "sources",
        "topics",
    }
)


class Source(Protocol):
    """The merged sections of all files, and where to complain about them."""

    sections: dict[str, dict[str, Any]]
    partitions: int | None
    epoch: dict[str, Any] | None

    def refuse(self, path: tuple[str | int, ...], message: str, *, key: bool = False) -> None:
        """Note a problem at a path of the sections."""


def build_topology(source: Source) -> Topology | None:
    """The topology; every problem is reported to `source`, and None returned where it matters."""
    if source.partitions is None:
        source.refuse(("partitions",), "the key 'partitions' is missing; add `partitions: 4`")
        return None
    tenants = {
        name: Tenant(
            name,
            tuple(sorted(each.get("admin_roles", ()))),
            tuple(sorted(each.get("allowed_clusters", ()))),
        )
        for name, each in source.sections["tenants"].items()
    }
    namespaces = {
        name: _namespace(source, name, each, tenants)
        for name, each in source.sections["namespaces"].items()
    }
    names, topics = _topics(source, source.partitions, namespaces)
    sources = _sources(source)
    functions: dict[str, FunctionSpec] = {}
    for name, each in source.sections["functions"].items():
        _check_reference(source, ("functions", name, "namespace"), each["namespace"], namespaces)
        spec = _function(
            source, name, each, names=names, topics=topics, partitions=source.partitions
        )
        if _SEQUENCE in each["operators"]:
            spec = replace(spec, user_config={**spec.user_config, "sources": sources})
        functions[spec.name] = spec
    functions = _with_lanes(source, functions)
    policies = {name: msgspec.convert(each, SourcePolicy) for name, each in sources.items()}
    floor = int(source.epoch["floor"]) if source.epoch else 1
    return Topology(
        source.partitions, tenants, namespaces, topics, functions, names, policies, floor
    )


def _with_lanes(source: Source, functions: Mapping[str, FunctionSpec]) -> dict[str, FunctionSpec]:
    """Functions that know which lanes others serve; two of one lane would fight for its views."""
    taken: dict[str, str] = {}
    for name, spec in functions.items():
        if ROUTE in spec.user_config["operators"]:
            lane = spec.user_config.get("lane", DEFAULT_LANE)
            if lane in taken:
                short, told = name.rsplit("/", 1)[-1], lane or "without a lane"
                text = f"{taken[lane]} serves the same views ({told}); choose another lane"
                source.refuse(("functions", short), text, key=True)
            taken.setdefault(lane, name)
        elif "lane" in spec.user_config:
            short = name.rsplit("/", 1)[-1]
            text = f"only a function with the operator {ROUTE!r} has a lane; remove it"
            source.refuse(("functions", short, "lane"), text, key=True)
    elsewhere = sorted(taken.keys() - {DEFAULT_LANE})
    if elsewhere and DEFAULT_LANE in taken:
        name = taken[DEFAULT_LANE]
        user_config = {**functions[name].user_config, "elsewhere": elsewhere}
        return {**functions, name: replace(functions[name], user_config=user_config)}
    return dict(functions)


def _sources(source: Source) -> dict[str, dict[str, Any]]:
    """The policies of the sources as the sequencer reads them.

    What is given beside a policy must matter to it: a `hold_ms` that does nothing is a mistake.
    """
    for name, declared in source.sections["sources"].items():
        for key in declared:
            if key.startswith("hold_") and declared["policy"] != "hold":
                text = f"only the policy 'hold' has a {key}, not {declared['policy']!r}; remove it"
                source.refuse(("sources", name, key), text, key=True)
    return {name: dict(declared) for name, declared in source.sections["sources"].items()}


def _namespace(
    source: Source, name: str, declared: Mapping[str, Any], tenants: Mapping[str, Tenant]
) -> Namespace:
    tenant = name.split("/", 1)[0]
    if tenant not in tenants:
        allowed = ", ".join(sorted(tenants)) or "none is declared"
        text = f"the tenant {tenant!r} is not declared under `tenants`. Allowed: {allowed}"
        source.refuse(("namespaces", name), text, key=True)
    policies = flat_policies(declared.get("policies", {}))
    _check_policies(source, ("namespaces", name, "policies"), policies)
    return Namespace(
        name,
        policies,
        declared.get("dynamic_topics", ""),
        int(declared.get("bundles", 4)),
        {role: tuple(sorted(actions)) for role, actions in declared.get("grants", {}).items()},
    )


def flat_policies(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Policies as written in YAML, in the flat form and the units of `policies.POLICIES`.

    >>> flat_policies({"retention": {"time": "1h", "size": "forever"}})
    Traceback (most recent call last):
    ValueError: 'forever' is no size
    >>> flat_policies({"retention": {"time": "1h", "size": "4GiB"}, "message_ttl": "never"})
    {'retention.time_minutes': 60, 'retention.size_mb': 4096, 'message_ttl.seconds': 0}
    """
    return {
        attribute: each
        for name, value in declared.items()
        for attribute, each in _POLICIES[name](value).items()
    }


def _retention(value: Mapping[str, str]) -> dict[str, Any]:
    time, size = value["time"], value["size"]
    return {
        "retention.time_minutes": -1 if time == "forever" else seconds(time) // 60,
        "retention.size_mb": -1 if size == "unlimited" else size_bytes(size) >> 20,
    }


def _backlog_quota(value: Mapping[str, str]) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "backlog_size.limit_bytes": size_bytes(value["size"]),
        "backlog_size.policy": value["policy"],
    }
    if value.get("age", "never") != "never":
        flat["backlog_age.limit_seconds"] = seconds(value["age"])
        flat["backlog_age.policy"] = value["policy"]
    return flat


def _expiration(value: str) -> dict[str, Any]:
    minutes = 0 if value == "forever" else seconds(value) // 60
    return {"subscription_expiration.minutes": minutes}


def _check_policies(
    source: Source, path: tuple[str | int, ...], policies: Mapping[str, Any]
) -> None:
    quota, keep = policies.get("backlog_size.limit_bytes"), policies.get("retention.size_mb", -1)
    if quota is not None and 0 < keep << 20 <= quota:
        text = f"must be below the retention's size, which is {keep} MiB; Pulsar refuses it else"
        source.refuse((*path, "backlog_quota", "size"), text)
    age, minutes = (
        policies.get("backlog_age.limit_seconds"),
        policies.get("retention.time_minutes", -1),
    )
    if age is not None and 0 < minutes * 60 <= age:
        text = f"must be below the retention's time, which is {minutes} min; Pulsar refuses it else"
        source.refuse((*path, "backlog_quota", "age"), text)
    if "persistence.ensemble" in policies:
        ensemble, write, ack = (
            policies[f"persistence.{each}"] for each in ("ensemble", "write_quorum", "ack_quorum")
        )
        if not ensemble >= write >= ack:
            text = (
                f"must hold ensemble >= write_quorum >= ack_quorum, not {ensemble}, {write}, {ack}"
            )
            source.refuse((*path, "persistence"), text)


def _topics(
    source: Source, partitions: int, namespaces: Mapping[str, Namespace]
) -> tuple[dict[str, str], dict[str, Topic]]:
    names: dict[str, str] = {}
    topics: dict[str, Topic] = {}
    for topic_id, each in source.sections["topics"].items():
        path = ("topics", topic_id, "name")
        namespace = each["name"].rsplit("/", 1)[0]
        _check_reference(source, path, namespace, namespaces)
        name = f"persistent://{each['name']}"
        if name in topics:
            source.refuse(path, f"the topic {each['name']} is declared twice; declare it once")
        if each.get("keyed") and not each.get("partitioned"):
            text = "keyed topics are partitioned; add `partitioned: true` or remove `keyed`"
            source.refuse(("topics", topic_id, "keyed"), text)
        owner = namespaces.get(namespace)
        if owner is not None and owner.is_dynamic(name):
            text = f"matches the dynamic topics of its namespace ({owner.dynamic_topics})"
            source.refuse(path, f"{text}, which the control plane creates; choose another name")
        count = partitions if each.get("partitioned") else 0
        topics[name] = Topic(name, count, bool(each.get("keyed")))
        names[topic_id] = name
    return names, topics


def _function(
    source: Source,
    name: str,
    declared: Mapping[str, Any],
    *,
    names: Mapping[str, str],
    topics: Mapping[str, Topic],
    partitions: int,
) -> FunctionSpec:
    path = ("functions", name)
    for index, each in enumerate(declared["inputs"]):
        _check_reference(source, (*path, "inputs", index), each, names)
    for role, each in declared.get("topics", {}).items():
        _check_reference(source, (*path, "topics", role), each, names)
    if "log_topic" in declared:
        _check_reference(source, (*path, "log_topic"), declared["log_topic"], names)
    inputs = [names[each] for each in declared["inputs"] if each in names]
    parallelism = declared.get("parallelism", 1)
    most = max((max(topics[each].partitions, 1) for each in inputs), default=parallelism)
    if parallelism > most:
        text = f"found {parallelism}, but its inputs have {most} partitions; more would stand idle"
        source.refuse((*path, "parallelism"), f"{text}. Allowed: 1 to {most}")
    lane = declared.get("lane", DEFAULT_LANE)
    waits = bool(delay_of(lane) or followed_by(lane))
    if waits and parallelism != partitions:
        told = "is delayed" if delay_of(lane) else "follows a workflow"
        text = f"found {parallelism}; what {told} needs an instance for each partition, since one"
        allowed = f"frame that waits holds up all of its instance. Allowed: {partitions}"
        source.refuse((*path, "parallelism"), f"{text} {allowed}")
    shared = {"partitions": partitions} | ({"epoch": source.epoch} if source.epoch else {})
    config = declared.get("config", {})
    for key in sorted(_OWN_KEYS & config.keys()):
        text = f"{key!r} is set from the rest of the topology; remove it here"
        source.refuse((*path, "config", key), text, key=True)
    _refuse_nulls(source, (*path, "config"), config)
    resources = declared.get("resources", {})
    return FunctionSpec(
        name=f"{declared['namespace']}/{name}",
        class_name=declared["class"],
        parallelism=parallelism,
        inputs=tuple(
            Input(each, declared["serde"], declared.get("receiver_queue_size", 100))
            for each in inputs
        ),
        subscription=declared.get("subscription", name),
        cpu=float(resources.get("cpu", 1.0)),
        ram_bytes=size_bytes(resources["ram"]) if "ram" in resources else _DEFAULT_RAM_BYTES,
        disk_bytes=size_bytes(resources["disk"]) if "disk" in resources else _DEFAULT_DISK_BYTES,
        # What waits has no views before its function runs, and none may begin with old events.
        subscription_position="latest" if waits else "earliest",
        log_topic=names.get(declared.get("log_topic", ""), ""),
        user_config={
            **config,
            **({"lane": lane} if lane else {}),
            "operators": list(declared["operators"]),
            "topics": {
                role: names[each]
                for role, each in sorted(declared.get("topics", {}).items())
                if each in names
            },
            **shared,
            "log_level": declared.get("log_level", "info"),
        },
    )


def _refuse_nulls(source: Source, path: tuple[str | int, ...], value: Any) -> None:
    if value is None:
        source.refuse(path, "found null, which Pulsar drops. Allowed: a value, or no key at all")
    elif isinstance(value, Mapping):
        for key, each in value.items():
            _refuse_nulls(source, (*path, key), each)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _refuse_nulls(source, (*path, index), each)


def _check_reference(
    source: Source, path: tuple[str | int, ...], name: str, declared: Mapping[str, Any]
) -> None:
    if name not in declared:
        near = difflib.get_close_matches(name, list(declared), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        allowed = ", ".join(sorted(declared)) or "none is declared"
        source.refuse(path, f"{name!r} is not declared.{hint} Allowed: {allowed}")


def seconds(text: str) -> int:
    """A duration of the YAML in seconds; ValueError for anything else."""
    match = re.fullmatch(r"([1-9][0-9]*)([smhd])", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def size_bytes(text: str) -> int:
    """A size of the YAML in bytes; ValueError for anything else."""
    match = re.fullmatch(r"([1-9][0-9]*)(KiB|MiB|GiB|TiB)", text)
    if match is None:
        raise ValueError(f"{text!r} is no size")
    return int(match[1]) * _UNIT_BYTES[match[2]]


_POLICIES: Final[dict[str, Callable[[Any], dict[str, Any]]]] = {
    "retention": _retention,
    "backlog_quota": _backlog_quota,
    "message_ttl": lambda value: {"message_ttl.seconds": 0 if value == "never" else seconds(value)},
    "deduplication": lambda value: {"deduplication.enabled": value},
    "compaction_threshold": lambda value: {"compaction_threshold.bytes": size_bytes(value)},
    "persistence": lambda value: {f"persistence.{key}": each for key, each in value.items()},
    "schema_compatibility": lambda value: {"schema_compatibility.strategy": value.upper()},
    "auto_topic_creation": lambda value: {"auto_topic_creation.allowed": value},
    "auto_subscription_creation": lambda value: {"auto_subscription_creation.allowed": value},
    "inactive_topics": lambda value: {"inactive_topics.delete": value == "delete"},
    "subscription_auth_mode": lambda value: {"subscription_auth_mode.mode": value.capitalize()},
    "subscription_expiration": _expiration,
}
