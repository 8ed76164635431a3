"""Which formats there are."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from marketdata.formats.arrow import ArrowFormat
from marketdata.formats.avro import AvroFormat
from marketdata.formats.base import Format, FormatError
from marketdata.formats.csv import CsvFormat
from marketdata.formats.json import JsonFormat
from marketdata.formats.messagepack import MessagePackFormat
from marketdata.formats.protobuf import ProtobufFormat

FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        format_.name: format_
        for format_ in (
            ArrowFormat(),
            JsonFormat(),
            AvroFormat(),
            ProtobufFormat(),
            CsvFormat(),
            MessagePackFormat(),
        )
    }
)
"""name -> format."""


def get_format(name: str) -> Format:
    """The format of a name.

    Raises:
        FormatError: there is none; the text lists those that are.
    """
    found = FORMATS.get(name)
    if found is None:
        raise FormatError(f"unknown format {name!r}; formats are: {', '.join(FORMATS)}")
    return found
