"""The code that functions are deployed with, kept so that a deleted one can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import structlog

from control_plane.database import Database
from control_plane.domains.functions import repository
from control_plane.pulsar_admin import AdminError, PulsarAdmin
from control_plane.topology import Actual, Change, FunctionSpec, Topology
from control_plane.topology.bundle import bundle_of
from control_plane.topology.model import BUNDLE_DIGEST

log = structlog.get_logger(__name__)


class FunctionCodes:
    """One per keeper of functions, which tells it what it sees."""

    def __init__(self, database: Database, admin: PulsarAdmin) -> None:
        self._database = database
        self._admin = admin
        self._kept: dict[str, str] | None = None

    async def keep(self, topology: Topology, actual: Actual) -> Mapping[str, str]:
        """Keep the code of functions that are deployed with another than was kept.

        Returns:
            The digest of the code that is kept, by function.
        """
        if self._kept is None:
            async with self._database.transaction() as session:
                self._kept = await repository.digests(session)
        for name in topology.functions.keys() & actual.functions.keys():
            config = actual.functions[name].config
            digest = str((config.get("userConfig") or {}).get(BUNDLE_DIGEST, ""))
            if not digest or self._kept.get(name) == digest:
                continue
            try:
                content = await self._admin.function_code(name)
            except AdminError as error:
                log.warning("code of a function not kept", function=name, error=str(error))
                continue
            async with self._database.transaction() as session:
                await repository.keep(session, name, digest, content)
            self._kept[name] = digest
            log.info("code of a function kept", function=name, digest=digest)
        return self._kept

    async def add(self, change: Change) -> Change:
        """A creation with the code that the function had; every other change as it is."""
        if change.action != "create":
            return change
        async with self._database.transaction() as session:
            code = await repository.kept(session, change.name)
        if code is None:
            return change
        bundle = bundle_of(code.content, code.digest)
        return replace(change, desired=cast(FunctionSpec, change.desired).with_bundle(bundle))
