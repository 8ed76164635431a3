"""The Pulsar schema of a topic whose messages hold one event each, as its registry takes it.

Avro: the record of the view's kind, of which there must be one. JSON: Pulsar describes it by an
Avro record, too; its fields are the columns of all kinds of the view, and those that not every kind
has may be null, that is left out. Protobuf: `Event`, which is any kind, with all it is made of.
"""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa

from marketdata.formats.avro_schemas import NAMESPACE, avro_schema
from marketdata.formats.json_schemas import json_form
from marketdata.formats.protobuf import event_class


class PulsarSchema(NamedTuple):
    """A schema for Pulsar's registry.

    Attributes:
        type: as the admin API calls it.
        definition: JSON text.
    """

    type: Literal["AVRO", "JSON", "PROTOBUF_NATIVE"]
    definition: str


def pulsar_schema(format_name: str, schemas: Sequence[pa.Schema]) -> PulsarSchema | None:
    """The schema of messages with one event each.

    Args:
        format_name: of the view.
        schemas: of the events of each kind that the view can hold, transformed.

    Returns:
        None for formats that Pulsar does not know, and where no schema can hold all kinds.
    """
    writer = _WRITERS.get(format_name)
    return None if writer is None or not schemas else writer(schemas)


def _avro(schemas: Sequence[pa.Schema]) -> PulsarSchema | None:
    return PulsarSchema("AVRO", avro_schema(schemas[0])) if len(schemas) == 1 else None


def _json(schemas: Sequence[pa.Schema]) -> PulsarSchema:
    fields = {field.name: field for schema in schemas for field in schema}
    record = {
        "type": "record",
        "name": "Event",
        "namespace": NAMESPACE,
        "fields": [
            {"name": "kind", "type": "string"},
            *(_json_field(field, schemas) for field in fields.values()),
        ],
    }
    return PulsarSchema("JSON", json.dumps(record, separators=(",", ":")))


def _json_field(field: pa.Field, schemas: Sequence[pa.Schema]) -> dict[str, Any]:
    type_ = {"string": "string", "integer": "long", "number": "double"}[json_form(field)["type"]]
    having = [schema.field(field.name) for schema in schemas if field.name in schema.names]
    if len(having) == len(schemas) and not any(each.nullable for each in having):
        return {"name": field.name, "type": type_}
    return {"name": field.name, "type": ["null", type_], "default": None}


def _protobuf(_: Sequence[pa.Schema]) -> PulsarSchema:
    return _protobuf_event()


@cache
def _protobuf_event() -> PulsarSchema:
    event = event_class().DESCRIPTOR
    files = import_module("google.protobuf.descriptor_pb2").FileDescriptorSet()
    event.file.CopyToProto(files.file.add())
    described = {
        "fileDescriptorSet": base64.b64encode(files.SerializeToString()).decode(),
        "rootMessageTypeName": event.full_name,
        "rootFileDescriptorName": event.file.name,
    }
    return PulsarSchema("PROTOBUF_NATIVE", json.dumps(described))


_WRITERS: Final[Mapping[str, Callable[[Sequence[pa.Schema]], PulsarSchema | None]]] = (
    MappingProxyType({"avro": _avro, "json": _json, "protobuf": _protobuf})
)
