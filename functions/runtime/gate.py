"""Holding back what a workflow has not confirmed yet: the runtime's thread waits here.

As with what is not old enough (`functions.runtime.delay`), what waits stays with the broker but for
one message, and the worker goes on meanwhile. Nothing is let through before the topic has been
read, and what was confirmed once stays so: read again from its beginning, the topic may tell of
less for a moment.
"""

import contextlib
import threading
from logging import Logger
from typing import Any

import msgspec
import pulsar

from functions.runtime.following import POLL_TIMEOUT_MS, follow
from marketdata.confirmed import Place, decode_confirmed, merged


class Gate:
    """Lets a message through when a workflow has confirmed all of its partition up to it.

    Args:
        workflow: that is followed; "" for none: everything is let through.
    """

    def __init__(self, workflow: str) -> None:
        self._workflow = workflow
        self._places: dict[int, Place] = {}
        self._risen = threading.Condition()

    def open_by(self, client: pulsar.Client, topic: str, log: Logger) -> None:
        """Follow what the workflow confirms, in a thread of its own."""
        if self._workflow:
            threading.Thread(
                target=follow, args=(client, topic, log, self._read), name="gate", daemon=True
            ).start()

    def hold(self, partition: int, message_id: Any) -> None:
        """Wait until a message that comes now is confirmed.

        An entry of several messages is acknowledged as a whole, so its number is all that counts.
        """
        if not self._workflow:
            return
        place = message_id.ledger_id(), message_id.entry_id()
        with self._risen:
            self._risen.wait_for(lambda: self._places.get(partition, (-1, -1)) >= place)

    def take(self, data: bytes) -> None:
        """Take in what the topic tells; of other workflows nothing.

        Raises:
            msgspec.MsgspecError: it is nothing of the kind.
        """
        told = decode_confirmed(data)
        if told.workflow == self._workflow:
            with self._risen:
                self._places = merged(self._places, told.places)
                self._risen.notify_all()

    def _read(self, reader: pulsar.Reader) -> None:
        while True:
            with contextlib.suppress(pulsar.Timeout, msgspec.MsgspecError):
                self.take(reader.read_next(POLL_TIMEOUT_MS).data())
