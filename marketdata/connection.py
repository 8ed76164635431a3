"""Opening a Pulsar client the way publishers and consumers need it, or using the caller's."""

import logging
from collections.abc import Mapping
from typing import Any

import pulsar

from marketdata.errors import DistributionError

_LOG_LEVEL = pulsar.LoggerLevel.Error


class TopicNotReady(DistributionError):
    """The topic is not there or not partitioned: apply the topology, then try again."""


def open_client(
    service: str | pulsar.Client, options: Mapping[str, Any] | None
) -> tuple[pulsar.Client, bool]:
    """The client to use, and whether it is ours to close.

    Args:
        service: a service URL (`pulsar://…` or `pulsar+ssl://…`), or a client that the caller
            closes after its publishers and consumers.
        options: for a URL, further arguments of `pulsar.Client` (authentication, TLS, logger …).
    """
    if not isinstance(service, str):
        return service, False
    arguments: dict[str, Any] = {
        # The client's own default accepts any host name in a certificate.
        "tls_validate_hostname": True,
        "logger": pulsar.ConsoleLogger(_LOG_LEVEL),
    }
    return pulsar.Client(service, **(arguments | dict(options or {}))), True


def partition_topics(client: pulsar.Client, topic: str) -> list[str]:
    """The topics of a partitioned topic's partitions, by number.

    Raises:
        TopicNotReady: it has none.
        pulsar.PulsarException: the broker cannot be reached.
    """
    try:
        names = list(client.get_topic_partitions(topic))
    except pulsar.TopicNotFound:
        names = []
    # Where topics are created on first use, the client answers with the name itself.
    if names in ([], [topic]):
        raise TopicNotReady(
            f"{topic} has no partitions on this cluster; apply the topology"
            " (scripts/deploy_functions.py apply), then start again"
        )
    return names


logger = logging.getLogger("marketdata")
"""Where publishers and consumers log."""
