"""The reference tables of plans, read from the compacted topic that the control plane keeps.

A version stands there under its digest, in pieces, before a plan names it. What has been read stays
for as long as a plan names it.
"""

from collections.abc import Collection
from typing import Final

import pulsar

from marketdata.plans import Plan
from marketdata.reference import ReferenceTable
from marketdata.reference.table import assembled, read_content

READ_TIMEOUT_MS: Final = 10_000


class TableNotThere(Exception):
    """A version that a plan names is not on the topic, or not whole; look again later."""


class ReferenceTables:
    """The tables of the newest plan; used by one thread at a time."""

    def __init__(self, client: pulsar.Client, topic: str) -> None:
        self._client = client
        self._topic = topic
        self._held: dict[str, ReferenceTable] = {}

    def of(self, plan: Plan) -> dict[str, ReferenceTable]:
        """The tables of a plan by name; others are forgotten.

        Raises:
            TableNotThere: naming the tables.
            pulsar.PulsarException: the topic cannot be read.
        """
        wanted = plan.tables or {}
        lacking = {name: one for name, one in wanted.items() if one.digest not in self._held}
        absent = []
        if lacking:
            pieces = self._read({one.digest for one in lacking.values()})
            for name, one in lacking.items():
                data = assembled(one.digest, one.pieces, pieces)
                if data is None:
                    absent.append(f"{name}@{one.version}")
                else:
                    self._held[one.digest] = ReferenceTable(read_content(data))
        if absent:
            raise TableNotThere(
                f"reference tables {', '.join(absent)} are not whole on {self._topic};"
                " the control plane publishes them again"
            )
        named = {one.digest for one in wanted.values()}
        self._held = {digest: table for digest, table in self._held.items() if digest in named}
        return {name: self._held[one.digest] for name, one in wanted.items()}

    def _read(self, digests: Collection[str]) -> dict[str, bytes]:
        """The pieces of some versions that the topic holds now, by key."""
        found: dict[str, bytes] = {}
        reader = self._client.create_reader(
            self._topic, pulsar.MessageId.earliest, receiver_queue_size=2, is_read_compacted=True
        )
        try:
            while reader.has_message_available():
                message = reader.read_next(READ_TIMEOUT_MS)
                key = message.partition_key()
                if key.partition("/")[0] in digests:
                    # Empty is what has been withdrawn.
                    found[key] = message.data()
        finally:
            reader.close()
        return {key: piece for key, piece in found.items() if piece}
