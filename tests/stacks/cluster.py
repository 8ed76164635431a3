"""The small cluster in containers: compose.cluster.yaml beside compose.yaml."""

from collections.abc import Sequence
from pathlib import Path

from scripts.devstack.ports import HOST
from tests.stacks.containers import ContainerStack

SERVICES: Sequence[str] = (
    "credentials",
    "metadata",
    "bookie",
    "bookie-2",
    "broker",
    "broker-2",
    "worker",
    "worker-2",
    "postgresql",
    "control-plane",
    "control-plane-2",
    "proxy",
    "prometheus",
)
"""Every container that stays, in the order of the way of an event."""


class ClusterStack(ContainerStack):
    """Like `ContainerStack`; `pulsar` and `control_plane` are the first of two."""

    workers = ("worker", "worker-2")

    def __init__(self, home: Path) -> None:
        super().__init__(home, ("compose.yaml", "compose.cluster.yaml"), "dds-test-cluster")

    @property
    def service_url(self) -> str:
        """Both brokers: a client takes the one that answers."""
        return f"{super().service_url},{HOST}:{self.ports['PULSAR_2']}"

    def _settings(self) -> dict[str, str]:
        return {} if self.official else {"DDS_HAPROXY_IMAGE": "dds-debian/haproxy"}
