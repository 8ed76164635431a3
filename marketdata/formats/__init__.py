"""Formats: what the bytes of a delivered frame are.

    get_format("json").encode(batch, "zstd")

Every format keeps prices and sizes exact, times to the nanosecond and nulls null, and decodes what
it encoded to the same batch. A format is looked up by the name that a subscription gives; installed
packages add others (`marketdata.formats.registry`).
"""

from marketdata.formats.base import Format, FormatError
from marketdata.formats.registry import format_of_view, formats, get_format

__all__ = ["Format", "FormatError", "format_of_view", "formats", "get_format"]
