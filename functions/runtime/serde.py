"""A serde that leaves bytes alone; the runtime's default one decodes them to `str`."""

from pulsar.functions.serde import SerDe


class BytesSerDe(SerDe):
    """Passes payloads through unchanged."""

    def serialize(self, input: bytes) -> bytes:  # noqa: A002 - the base class names it so
        """Bytes in, the same bytes out."""
        return input

    def deserialize(self, input_bytes: bytes) -> bytes:
        """Bytes in, the same bytes out."""
        return input_bytes
