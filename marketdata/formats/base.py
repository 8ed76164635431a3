"""What every format offers."""

from typing import Protocol, runtime_checkable

import pyarrow as pa

from marketdata.errors import DistributionError


class FormatError(DistributionError):
    """Bytes that are not of the format, or a batch that it cannot write; see the text."""


class Format(Protocol):
    """A way to write one frame as bytes. Stateless; one instance serves all threads."""

    @property
    def name(self) -> str:
        """What a subscription calls it, for example "arrow"."""

    @property
    def media_type(self) -> str:
        """Its media type when not compressed."""

    @property
    def description(self) -> str:
        """How a message is to be read, in a few sentences: what subscribers are told."""

    @property
    def max_rows(self) -> int:
        """Most events in a message with the columns of any kind, so that it stays below 5 MiB.

        At least 8. It may never change under a name: where a frame was cut tells which of its
        events a view has.
        """

    @property
    def renames(self) -> bool:
        """Whether columns may have names that events do not know; False where tags name them."""

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """The bytes of a batch of one kind, transformed or not.

        Args:
            batch: events whose schema metadata names their kind. Dictionaries are written as they
                are and must hold only what occurs (`marketdata.frames.compact_dictionaries`,
                `marketdata.splitting`): a frame names nothing that it does not carry.
            compression: "none", "lz4" or "zstd".

        Raises:
            FormatError: an unknown compression, or a column that the format cannot write.
        """

    def no_events(self) -> bytes:
        """The bytes of a message that carries no event, such as a heartbeat."""

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """The batch that was encoded; compression is recognized.

        Args:
            data: what `encode` gave.
            schema: of the batch; needed only where a format does not carry it and columns were
                renamed (`Transformation.schema` gives it).

        Raises:
            FormatError: the bytes are not of the format.
        """


@runtime_checkable
class EventFormat(Format, Protocol):
    """A format that can also write each event by itself, for views with one event a message."""

    def encode_each(self, batch: pa.RecordBatch) -> list[bytes]:
        """The bytes of each event of a batch, at least one; see `Format.encode`."""

    def decode_one(self, data: bytes, kind: str, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """The batch of one row that an item of `encode_each` was made of.

        Args:
            data: the bytes of one event.
            kind: of the event.
            schema: of the batch; needed where the bytes do not name columns and some were left
                out, and where columns were renamed.

        Raises:
            FormatError: the bytes are not an event of that schema.
        """
