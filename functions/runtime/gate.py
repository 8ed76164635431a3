"""Holding back what a workflow has not confirmed yet: the runtime's thread waits here.

As with what is not old enough (`functions.runtime.delay`), what waits stays with the broker but for
one message, and the worker goes on meanwhile. Nothing is let through before the topic has been
read, and what was confirmed once stays so: read again from its beginning, the topic may tell of
less for a moment.

A message that waits may have been handed out too early, before those that the partition's last
owner had (`functions.runtime.inputs`). These come behind it, in a redelivery: so it is passed over
once that has been asked for, and comes with it again. Should that redelivery begin later, since
others have done meanwhile what it was asked for, then it is to be asked for once more.
"""

import contextlib
import threading
from logging import Logger
from typing import Any

import msgspec
import pulsar

from functions.runtime.following import POLL_TIMEOUT_MS, follow
from marketdata.confirmed import Place, decode_confirmed, merged
from marketdata.positions import unpack


class Gate:
    """Lets a message through when a workflow has confirmed all of its partition up to it.

    Args:
        workflow: that is followed; "" for none: everything is let through.

    Attributes:
        holds: a message waits here, of whichever partition: nothing else comes.
    """

    def __init__(self, workflow: str) -> None:
        self.holds = False
        self._workflow = workflow
        self._places: dict[int, Place] = {}
        self._doubted: dict[int, Place] = {}
        """By partition the newest that came before the redelivery that begins at or before it."""
        self._unasked: set[int] = set()
        self._told = threading.Condition()

    def open_by(self, client: pulsar.Client, topic: str, log: Logger) -> None:
        """Follow what the workflow confirms, in a thread of its own."""
        if self._workflow:
            threading.Thread(
                target=follow, args=(client, topic, log, self._read), name="gate", daemon=True
            ).start()

    def hold(self, partition: int, message_id: Any) -> bool:
        """Wait until a message that comes now is confirmed; False: it will come once more.

        An entry of several messages is acknowledged as a whole, so its number is all that counts.
        """
        if not self._workflow:
            return True
        place = message_id.ledger_id(), message_id.entry_id()

        def confirmed() -> bool:
            return self._places.get(partition, (-1, -1)) >= place

        def decided() -> bool:
            return confirmed() or partition in self._doubted

        with self._told:
            if place <= self._doubted.get(partition, (-1, -1)):
                del self._doubted[partition]  # the redelivery has begun
                self._unasked.discard(partition)
            self.holds = not decided()
            self._told.wait_for(decided)
            self.holds = False
            if confirmed():
                return True
            self._doubted[partition] = place
            self._unasked.add(partition)
            return False

    def passed_over(self, partition: int) -> bool:
        """Whether messages were since the last question, and no redelivery has begun."""
        return partition in self._unasked

    def doubt(self, partition: int, position: int | None) -> None:
        """All that is not acknowledged is about to be asked for again.

        Args:
            position: the newest one that came before the ones that it follows, packed; what is
                behind it comes again. None: nothing came since the last question, so what comes
                next may be the first, unless something was passed over here.
        """
        if not self._workflow:
            return
        with self._told:
            if position is not None:
                place = unpack(position)[:2]
                self._doubted[partition] = max(self._doubted.get(partition, place), place)
                self._told.notify_all()
            elif partition not in self._unasked:
                self._doubted.pop(partition, None)
            self._unasked.discard(partition)

    def take(self, data: bytes) -> None:
        """Take in what the topic tells; of other workflows nothing.

        Raises:
            msgspec.MsgspecError: it is nothing of the kind.
        """
        told = decode_confirmed(data)
        if told.workflow == self._workflow:
            with self._told:
                self._places = merged(self._places, told.places)
                self._told.notify_all()

    def _read(self, reader: pulsar.Reader) -> None:
        while True:
            with contextlib.suppress(pulsar.Timeout, msgspec.MsgspecError):
                self.take(reader.read_next(POLL_TIMEOUT_MS).data())
