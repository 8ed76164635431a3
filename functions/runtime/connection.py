"""The functions' own connection to the broker, apart from the one the runtime consumes with.

When a producer is fenced while it sends, the broker closes the whole connection. On a shared one
that would take the input consumers along: the Failover subscription would move their partitions,
the new owner would fence others, and so on. With a connection of their own only outputs reconnect.
"""

import argparse
import sys
from typing import Any

import pulsar


def own_client(context: Any) -> pulsar.Client:
    """A client for the outputs, with the address and the credentials that the runtime was given.

    The address comes from the runtime's client; credentials stand in the arguments of the runtime's
    process and nowhere else. The caller closes the client.
    """
    info = context.get_pulsar_client().get_service_info()
    given = _runtime_arguments()
    authentication = None
    if given.client_auth_plugin and given.client_auth_params:
        authentication = pulsar.Authentication(given.client_auth_plugin, given.client_auth_params)
    return pulsar.Client(
        info.service_url,
        authentication=authentication,
        tls_trust_certs_file_path=given.tls_trust_cert_path or info.tls_trust_certs_file_path,
        tls_validate_hostname=given.hostname_verification_enabled == "true",
        tls_allow_insecure_connection=given.tls_allow_insecure_connection == "true",
        logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Warn),
    )


def _runtime_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in (
        "client_auth_plugin",
        "client_auth_params",
        "tls_trust_cert_path",
        "hostname_verification_enabled",
        "tls_allow_insecure_connection",
    ):
        parser.add_argument(f"--{name}")
    known, _ = parser.parse_known_args(sys.argv[1:])
    return known
