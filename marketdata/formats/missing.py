"""What stands in for a format that is not installed."""

from typing import Final, NoReturn

from marketdata.formats.base import FormatError


class MissingFormat:
    """Refuses every frame, and says why.

    Args:
        name: of the format that is not there.
        reason: what is wrong, and which formats there are.
    """

    media_type: Final = "application/octet-stream"
    max_rows: Final = 32_768
    renames: Final = True

    def __init__(self, name: str, reason: str) -> None:
        self.name: Final = name
        self.description: Final = f"Not installed here: {reason}"

    def encode(self, batch: object, compression: str = "none") -> NoReturn:  # noqa: ARG002
        """See `Format.encode`; always a FormatError."""
        raise FormatError(self.description)

    def no_events(self) -> bytes:
        """See `Format.no_events`: nothing."""
        return b""

    def decode(self, data: bytes, schema: object = None) -> NoReturn:  # noqa: ARG002
        """See `Format.decode`; always a FormatError."""
        raise FormatError(self.description)
