"""Namespace policies: read as they were written, and changed in an order that Pulsar accepts."""

from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from control_plane.topology.policies import POLICIES, Policy, policy_steps, read_policies

limits = st.one_of(st.just(-1), st.integers(1, 50))


@st.composite
def policy_sets(draw: st.DrawFn) -> dict[str, Any]:
    """Policies that Pulsar accepts: a quota stays below the retention."""
    chosen: dict[str, Any] = {}
    minutes, size_mb = draw(limits), draw(limits)
    if draw(st.booleans()):
        chosen |= {"retention.time_minutes": minutes, "retention.size_mb": size_mb}
    else:
        minutes = size_mb = -1
    if draw(st.booleans()):
        most = (size_mb << 20) - 1 if size_mb > 0 else 1 << 30
        chosen["backlog_size.limit_bytes"] = draw(st.integers(1, most))
        chosen["backlog_size.policy"] = "producer_request_hold"
        if draw(st.booleans()):
            most = minutes * 60 - 1 if minutes > 0 else 10_000
            chosen["backlog_age.limit_seconds"] = draw(st.integers(1, most))
            chosen["backlog_age.policy"] = "producer_request_hold"
    if draw(st.booleans()):
        chosen["message_ttl.seconds"] = draw(st.integers(0, 9))
    if draw(st.booleans()):
        chosen["schema_compatibility.strategy"] = draw(st.sampled_from(["FULL", "BACKWARD"]))
    return chosen


def accepts(state: dict[str, Any], policy: Policy, attributes: dict[str, Any]) -> bool:
    """What Pulsar 4.0.8 does with a step, as measured on a broker."""
    size_mb = state.get("retention.size_mb", -1)
    if policy.name == "backlog_size" and attributes:
        return not 0 < size_mb << 20 <= attributes["backlog_size.limit_bytes"]
    if policy.name == "backlog_age" and attributes:
        minutes = state.get("retention.time_minutes", -1)
        return size_mb <= 0 and not 0 < minutes * 60 <= attributes["backlog_age.limit_seconds"]
    if policy.name == "retention" and attributes:
        quotas = [key for key in state if key.startswith("backlog_")]
        size = state.get("backlog_size.limit_bytes", 10 << 30) if quotas else 0
        return not 0 < attributes["retention.size_mb"] << 20 <= size
    return True


def kept(state: dict[str, Any]) -> tuple[float, float]:
    """How long and how much is retained, so that two retentions compare."""
    if "retention.size_mb" not in state:
        return 0, 0
    minutes, size_mb = state["retention.time_minutes"], state["retention.size_mb"]
    return (minutes if minutes > 0 else inf), (size_mb if size_mb > 0 else inf)


@given(policy_sets(), policy_sets())
def test_every_step_is_accepted_keeps_what_was_kept_and_the_last_gives_the_new_set(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    state = dict(old)
    for policy, attributes in policy_steps(old, new):
        assert accepts(state, policy, attributes)
        state = {key: value for key, value in state.items() if key not in policy.keys}
        state |= attributes
        assert all(
            present >= min(before, after)
            for present, before, after in zip(kept(state), kept(old), kept(new), strict=True)
        )
    assert state == new


@given(policy_sets())
def test_equal_sets_need_no_step(policies: dict[str, Any]) -> None:
    assert policy_steps(policies, policies) == []


def document(policy: Policy, values: dict[str, Any]) -> dict[str, Any]:
    """Pulsar's namespace document after this policy was set."""
    found: dict[str, Any] = {}
    for attribute, path in policy.fields.items():
        place = found
        for key in path[:-1]:
            place = place.setdefault(key, {})
        place[path[-1]] = values[f"{policy.name}.{attribute}"]
    return found


def test_every_policy_is_read_back_as_it_was_set() -> None:
    for policy in POLICIES:
        values = dict.fromkeys(policy.keys, 7)
        assert read_policies(document(policy, values)) == values
        assert policy.part(values) == values


def test_an_untouched_namespace_has_no_policies() -> None:
    untouched = {
        "backlog_quota_map": {},
        "schema_compatibility_strategy": "UNDEFINED",
        "publishMaxMessageRate": {},
        "deleted": False,
    }
    assert read_policies(untouched) == {}


def test_bodies_have_the_form_of_the_admin_api() -> None:
    bodies = {policy.name: policy.body(dict.fromkeys(policy.keys, 1)) for policy in POLICIES}
    assert bodies["retention"] == {"retentionTimeInMinutes": 1, "retentionSizeInMB": 1}
    assert bodies["backlog_size"] == {"limitSize": 1, "policy": 1}
    assert bodies["message_ttl"] == 1
    assert bodies["inactive_topics"]["deleteWhileInactive"] == 1
