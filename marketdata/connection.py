"""Opening a Pulsar client the way publishers and consumers need it, or using the caller's.

What a client shows and whom it trusts stands in the environment, the same for every program of the
project: `DDS_TOKEN_FILE` is a file with its token, `DDS_TLS_TRUST_CERTS` one with the certificates
(PEM) that it believes besides the system's. Tokens are read again at every login, so a file that is
replaced before its token expires keeps a client connected; they never stand in arguments.
"""

import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import pulsar

from marketdata.errors import DistributionError

UNRESOLVED_S: Final = 20.0
"""Longer than the metadata store believes in a broker that has died."""

_LOG_LEVEL = pulsar.LoggerLevel.Error
_PAUSE_S = 0.5

Opened = TypeVar("Opened")


class TopicNotReady(DistributionError):
    """The topic is not there or not partitioned: apply the topology, then try again."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a client shows to a server and what it believes; None where it is not asked to."""

    token_file: Path | None = None
    trust_certs: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As `DDS_TOKEN_FILE` and `DDS_TLS_TRUST_CERTS` say."""
        token, trust = environment.get("DDS_TOKEN_FILE"), environment.get("DDS_TLS_TRUST_CERTS")
        return cls(Path(token) if token else None, Path(trust) if trust else None)

    def token(self) -> str | None:
        """The token as the file holds it now.

        Raises:
            DistributionError: the file cannot be read.
        """
        if self.token_file is None:
            return None
        try:
            return self.token_file.read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise DistributionError(
                f"the token cannot be read from {self.token_file} ({error}): put one there,"
                " or correct DDS_TOKEN_FILE"
            ) from None

    def tls(self) -> ssl.SSLContext | bool:
        """For `verify` of an HTTP client: what is named here, else the system's certificates."""
        if self.trust_certs is None:
            return True
        return ssl.create_default_context(cafile=str(self.trust_certs))

    def client_arguments(self) -> dict[str, Any]:
        """The arguments of `pulsar.Client` that follow from this."""
        # The client's own default accepts any host name in a certificate.
        arguments: dict[str, Any] = {"tls_validate_hostname": True}
        if self.token_file is not None:
            self.token()  # an unreadable file is told here, not by a thread of the client
            arguments["authentication"] = pulsar.AuthenticationToken(self.token)
        if self.trust_certs is not None:
            arguments["tls_trust_certs_file_path"] = str(self.trust_certs)
        return arguments


NO_ACCESS: Final = Access()
"""For a server that asks nobody who they are."""


def open_client(
    service: str | pulsar.Client, options: Mapping[str, Any] | None = None
) -> tuple[pulsar.Client, bool]:
    """The client to use, and whether it is ours to close.

    Args:
        service: a service URL (`pulsar://…` or `pulsar+ssl://…`), or a client that the caller
            closes after its publishers and consumers.
        options: for a URL, further arguments of `pulsar.Client`; authentication and TLS are taken
            from the environment (`Access`) where they are not given.

    Raises:
        DistributionError: the token of the environment cannot be read.
    """
    if not isinstance(service, str):
        return service, False
    arguments = Access.from_environment().client_arguments()
    arguments["logger"] = pulsar.ConsoleLogger(_LOG_LEVEL)
    return pulsar.Client(service, **(arguments | dict(options or {}))), True


def opened(open_: Callable[[], Opened], deadline: float, *, pause_s: float = _PAUSE_S) -> Opened:
    """The producer, consumer or reader that `open_` opens, if need be at a later attempt.

    The client library waits for a broker that refuses, but gives up at once where it cannot resolve
    a name, or a forwarded port has nobody behind it. An engine's name server forgets a dead broker
    before the other brokers know of its death, and a broker that listens in two networks may answer
    with its name in the other one, once (apache/pulsar#26244).

    Args:
        deadline: on `time.monotonic()`; no attempt follows it.

    Raises:
        pulsar.ConnectError: as the last attempt.
    """
    while True:
        try:
            return open_()
        except pulsar.ConnectError:
            if time.monotonic() + pause_s > deadline:
                raise
            time.sleep(pause_s)


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
