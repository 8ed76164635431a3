"""Formats: what the bytes of a delivered frame are.

    get_format("json").encode(batch, "zstd")

Every format keeps prices and sizes exact, times to the nanosecond and nulls null, and decodes what
it encoded to the same batch. A format is looked up by the name that a subscription gives.
"""

from marketdata.formats.base import Format, FormatError
from marketdata.formats.registry import FORMATS, get_format

__all__ = ["FORMATS", "Format", "FormatError", "get_format"]
