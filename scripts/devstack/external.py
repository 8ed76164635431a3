"""Servers that the user brings: DDS_PULSAR_SERVICE_URL with DDS_PULSAR_ADMIN_URL, DDS_DATABASE_URL.

What is named here is used, and nothing is started in its place. URLs that are the stack's own
(after `eval "$(python3 scripts/dev.py env)"`) do not count as somebody else's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scripts.devstack.errors import UsageError

SERVICE, ADMIN, DATABASE = "DDS_PULSAR_SERVICE_URL", "DDS_PULSAR_ADMIN_URL", "DDS_DATABASE_URL"


@dataclass(frozen=True, slots=True)
class External:
    """The user's own servers; None where the stack starts one."""

    service_url: str | None = None
    admin_url: str | None = None
    database_url: str | None = None

    @classmethod
    def read(
        cls,
        components: Mapping[str, Mapping[str, Any]],
        environment: Mapping[str, str] = os.environ,
    ) -> External:
        """Read the environment; `components` are the stack's own as in `stack.json`."""
        service = environment.get(SERVICE) or None
        admin = environment.get(ADMIN) or None
        database = environment.get(DATABASE) or None
        own = components.get("pulsar", {})
        if service and service == own.get("service_url"):
            service = None
        if admin and admin == own.get("admin_url"):
            admin = None
        if database and database == components.get("postgresql", {}).get("url"):
            database = None
        if (service is None) != (admin is None):
            missing = ADMIN if admin is None else SERVICE
            raise UsageError(
                f"{missing} is missing: a broker of your own needs both {SERVICE} and {ADMIN}",
                hint=f"set {missing} too, or unset both to have a broker started",
            )
        return cls(service, admin, database)
