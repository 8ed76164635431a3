"""Reads from a cluster what a topology is about. Nothing is cached: drift is always seen."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable

from control_plane.pulsar_admin import AdminNotFound, AdminUnavailable, PulsarAdmin
from control_plane.pulsar_values import FunctionStatus
from control_plane.topology.model import (
    Actual,
    FunctionState,
    Tenant,
    TopicState,
    Topology,
)
from control_plane.topology.policies import read_grants, read_policies

_STATUS_RETRY_FOR_S = 3.0
_PARTITION = re.compile(r"(?P<topic>.+)-partition-(?P<index>\d+)")


async def read_actual(admin: PulsarAdmin, topology: Topology) -> Actual:
    """The cluster's present state, within the tenants and namespaces that the topology names.

    Raises:
        AdminUnavailable: the broker does not serve; retry later.
        AdminRejected: the role may not read this.
    """
    homes = {name.rsplit("/", 1)[0] for name in topology.functions} | set(topology.namespaces)
    clusters = tuple(await admin.clusters())
    existing = set(await admin.tenants())
    tenants = {name: await _tenant(admin, name) for name in topology.tenants if name in existing}
    owners = {name.split("/", 1)[0] for name in homes} | set(topology.tenants)
    names = [
        namespace
        for tenant in sorted(owners & existing)
        for namespace in await admin.namespaces(tenant)
    ]
    declared = [name for name in names if name.split("/", 1)[0] in topology.tenants]
    documents = await asyncio.gather(*(admin.namespace_policies(name) for name in declared))
    authorization = bool(topology.namespaces) and await admin.authorization_enabled()
    topics: dict[str, TopicState] = {}
    for name in names:
        if name in topology.namespaces:
            topics |= {each.name: each for each in await _topics(admin, name)}
    functions: dict[str, FunctionState] = {}
    for name in names:
        if name in homes:
            functions |= {each.name: each for each in await _functions(admin, name)}
    return Actual(
        clusters=clusters,
        tenants=tenants,
        namespaces={
            name: read_policies(document) | (read_grants(document) if authorization else {})
            for name, document in zip(declared, documents, strict=True)
        },
        authorization=authorization,
        topics=topics,
        subscriptions=await _subscriptions(
            admin, {each.topic for each in topology.subscriptions} | set(topology.topics)
        ),
        functions=functions,
    )


async def _tenant(admin: PulsarAdmin, name: str) -> Tenant:
    found = await admin.tenant(name)
    return Tenant(
        name,
        tuple(sorted(found.get("adminRoles") or ())),
        tuple(sorted(found.get("allowedClusters") or ())),
    )


async def _topics(admin: PulsarAdmin, namespace: str) -> list[TopicState]:
    partitioned = [
        name for name in await admin.partitioned_topics(namespace) if not _is_system(name)
    ]
    plain: list[TopicState] = []
    present: dict[str, set[int]] = {name: set() for name in partitioned}
    for name in await admin.topics(namespace):
        match = _PARTITION.fullmatch(name)
        if match and match["topic"] in present:
            present[match["topic"]].add(int(match["index"]))
        elif not _is_system(name):
            plain.append(TopicState(name))
    counts = await asyncio.gather(*(_partitions(admin, name) for name in partitioned))
    return plain + [
        TopicState(name, count, tuple(sorted(set(range(count)) - present[name])))
        for name, count in zip(partitioned, counts, strict=True)
        if count is not None
    ]


async def _partitions(admin: PulsarAdmin, topic: str) -> int | None:
    """The partition count; None for a topic that went since it was listed, as views' do."""
    try:
        return await admin.partitions(topic)
    except AdminNotFound:
        return None


def _is_system(topic: str) -> bool:
    return topic.rsplit("/", 1)[-1].startswith("__")


async def _subscriptions(admin: PulsarAdmin, topics: Iterable[str]) -> frozenset[tuple[str, str]]:
    async def of(topic: str) -> list[tuple[str, str]]:
        try:
            return [(topic, name) for name in await admin.subscriptions(topic)]
        except AdminNotFound:
            return []

    found = await asyncio.gather(*(of(topic) for topic in sorted(topics)))
    return frozenset(each for names in found for each in names)


async def _functions(admin: PulsarAdmin, namespace: str) -> list[FunctionState]:
    states = []
    for short in await admin.functions(namespace):
        name = f"{namespace}/{short}"
        try:
            config = await admin.function_config(name)
        except AdminNotFound:
            continue
        try:
            status = await admin.function_status(name, retry_for_s=_STATUS_RETRY_FOR_S)
        except (AdminUnavailable, AdminNotFound) as error:
            if not error.status:
                raise  # no answer says nothing about the instances
            # After a broker restart the worker may answer 503 until the function is restarted.
            status = FunctionStatus(int(config.get("parallelism", 1)), 0, ())
        states.append(
            FunctionState(
                name,
                config,
                status.expected,
                status.running,
                sum(each.restarts for each in status.instances),
                bool(await admin.function_packages(name)),
            )
        )
    return states
