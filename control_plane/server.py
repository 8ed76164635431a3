"""The HTTP server: uvicorn, which ends streams of events before it waits for requests to end."""

from __future__ import annotations

import socket

import uvicorn
from litestar import Litestar


class Server(uvicorn.Server):
    """A server of one control plane.

    Uvicorn tells the application of its end only when all requests have ended, and a stream of
    events would never: its reader would be cut off when the server's patience is over.
    """

    def __init__(self, app: Litestar, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._events = app.state.control_plane.events

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End streams, then as uvicorn does."""
        self._events.close()
        await super().shutdown(sockets)
