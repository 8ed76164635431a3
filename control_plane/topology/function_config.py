"""A function's config as Pulsar wants it, and as it can be compared with what Pulsar echoes.

Traps this module knows: `subscriptionPosition` is read only in the spelling `Earliest`, another
one silently means latest; the echo turns integers of the user config into floats and drops nulls;
an update cannot alter the subscription, its position, the guarantees or the set of inputs, nor
unset a log topic, so those need the function to be replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from control_plane.topology.model import BUNDLE_DIGEST, FunctionSpec

_POSITIONS: Final = {"earliest": "Earliest", "latest": "Latest"}
_UNALTERABLE: Final = frozenset(
    {
        "runtime",
        "processing_guarantees",
        "retain_ordering",
        "auto_ack",
        "subscription",
        "subscription_position",
    }
)
_DIGEST_ATTRIBUTE: Final = f"user_config.{BUNDLE_DIGEST}"


def pulsar_config(spec: FunctionSpec) -> dict[str, Any]:
    """The whole `functionConfig` of a function; Pulsar forgets what an update leaves out."""
    tenant, namespace, name = spec.name.split("/")
    config: dict[str, Any] = {
        "tenant": tenant,
        "namespace": namespace,
        "name": name,
        "className": spec.class_name,
        "runtime": "PYTHON",
        "inputSpecs": {
            each.topic: {
                "serdeClassName": each.serde,
                "receiverQueueSize": each.receiver_queue_size,
            }
            for each in spec.inputs
        },
        "processingGuarantees": spec.processing_guarantees,
        "autoAck": False,
        "retainOrdering": spec.retain_ordering,
        "subName": spec.subscription,
        "subscriptionPosition": _POSITIONS[spec.subscription_position],
        "cleanupSubscription": False,
        "parallelism": spec.parallelism,
        "resources": {"cpu": spec.cpu, "ram": spec.ram_bytes, "disk": spec.disk_bytes},
        "userConfig": dict(spec.user_config),
    }
    if spec.log_topic:
        config["logTopic"] = spec.log_topic
    if spec.bundle is not None:
        config["py"] = spec.bundle.name
    return config


def attributes_of(config: Mapping[str, Any], *, with_code: bool = True) -> dict[str, Any]:
    """The managed fields of a config, sent or echoed, in one flat comparable form."""
    resources = config.get("resources") or {}
    found: dict[str, Any] = {
        "class_name": config.get("className"),
        "runtime": config.get("runtime"),
        "parallelism": config.get("parallelism"),
        "cpu": resources.get("cpu"),
        "ram_bytes": resources.get("ram"),
        "disk_bytes": resources.get("disk"),
        "processing_guarantees": config.get("processingGuarantees"),
        "auto_ack": config.get("autoAck"),
        "retain_ordering": bool(config.get("retainOrdering")),
        "subscription": config.get("subName"),
        "subscription_position": str(config.get("subscriptionPosition")).lower(),
        "cleanup_subscription": config.get("cleanupSubscription"),
        "log_topic": config.get("logTopic") or "",
        "output": config.get("output") or "",
    }
    for topic, each in (config.get("inputSpecs") or {}).items():
        found[f"inputs.{topic}.serde"] = each.get("serdeClassName")
        found[f"inputs.{topic}.receiver_queue_size"] = each.get("receiverQueueSize")
    for topic in config.get("inputs") or ():
        found.setdefault(f"inputs.{topic}.serde", None)
    found |= _flat("user_config", config.get("userConfig") or {})
    if not with_code:
        found.pop(_DIGEST_ATTRIBUTE, None)
    return found


def forces_replacement(attribute: str, old: Any, new: Any, *, code_is_fixed: bool = False) -> bool:
    """Whether Pulsar's update cannot make this change, so that the function is created anew."""
    if attribute == _DIGEST_ATTRIBUTE:
        return code_is_fixed
    if attribute in _UNALTERABLE:
        return True
    if attribute in ("log_topic", "output"):
        return not new
    return attribute.startswith("inputs.") and (old is None or new is None)


def updated_config(spec: FunctionSpec, actual: Mapping[str, Any]) -> dict[str, Any]:
    """The config to send for a deployed function: without new code its old digest stays."""
    config = pulsar_config(spec)
    digest = (actual.get("userConfig") or {}).get(BUNDLE_DIGEST)
    if spec.bundle is None and digest is not None:
        config["userConfig"][BUNDLE_DIGEST] = digest
    return config


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested mappings as dotted attributes; whole floats as the integers that they were.

    >>> _flat("user_config", {"topics": {"plans": "x"}, "partitions": 4.0, "none": None})
    {'user_config.topics.plans': 'x', 'user_config.partitions': 4}
    """
    if isinstance(value, Mapping):
        return {
            path: leaf
            for key, each in value.items()
            for path, leaf in _flat(f"{prefix}.{key}", each).items()
        }
    return {} if value is None else {prefix: _exact(value)}


def _exact(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list | tuple):
        return [_exact(each) for each in value]
    return value
