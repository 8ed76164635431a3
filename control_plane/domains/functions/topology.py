"""The functions that there should be, as the topology's files say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from control_plane.domains.functions.service import StatusBoard
from control_plane.topology import Topology, TopologyError, load_topology

log = structlog.get_logger(__name__)


class KnownTopology:
    """What the files said last; one per control plane, which tells the status board, too."""

    def __init__(self, folder: Path, board: StatusBoard) -> None:
        self._folder = folder
        self._board = board
        self._problem: str | None = None
        self.functions: Topology | None = None
        """The functions of the topology; None before it was read, or where it cannot be."""

    async def load(self) -> None:
        """Read the files anew; what is wrong with them is logged."""
        try:
            found = (await asyncio.to_thread(load_topology, self._folder)).only_functions()
        except (TopologyError, OSError) as error:
            if self._problem != str(error):
                log.warning("topology not readable; functions are left alone", error=str(error))
            self._problem, self.functions = str(error), None
            return
        self._problem, self.functions = None, found
        self._board.expected = {
            short_name(name): spec.parallelism for name, spec in found.functions.items()
        }
        self._board.lanes = {lane: short_name(name) for lane, name in found.lanes.items()}


def short_name(function: str) -> str:
    """A function's name without tenant and namespace.

    >>> short_name("marketdata/functions/sequencer")
    'sequencer'
    """
    return function.rsplit("/", 1)[-1]
