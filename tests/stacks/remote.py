"""A stack that runs somewhere: used, and neither started, stopped nor hurt."""

import os
from typing import Never

import pytest

SERVICE_URL = "DDS_PULSAR_SERVICE_URL"


class RemoteStack:
    """The stack behind a control plane's URL; its broker is named by DDS_PULSAR_SERVICE_URL."""

    def __init__(self, url: str) -> None:
        if not os.environ.get(SERVICE_URL):
            raise pytest.UsageError(f"--stack={url} needs {SERVICE_URL}: the address of its broker")
        self.control_plane_url = url.rstrip("/")
        self.service_url = os.environ[SERVICE_URL]

    def environment(self) -> dict[str, str]:
        """Broker and control plane."""
        return {SERVICE_URL: self.service_url, "DDS_CONTROL_PLANE_URL": self.control_plane_url}

    def _refuse(self, *_: object) -> Never:
        pytest.skip(f"nothing is killed at {self.control_plane_url}: it is not the tests' own")

    kill = start = function_pids = kill_instance = _refuse
