"""Protobuf: a run of `Event` messages, each behind its length, as `parseDelimitedFrom` reads them.

`marketdata.formats.protobuf_schemas` makes the `.proto`. Columns are known by their numbers, so a
view cannot rename them, nor compute others.
"""

from functools import cache
from importlib import import_module
from typing import Any, Final

import numpy as np
import pyarrow as pa

from marketdata.arrays import run_of, values_of
from marketdata.formats.base import FormatError
from marketdata.formats.cells import (
    Lengths,
    Piece,
    fixed,
    join_cells,
    lengths_of_rows,
    optional,
    texts,
    varint,
    varints,
)
from marketdata.formats.compression import compressed, decompressed
from marketdata.formats.events import batch_of, kind_of, schema_of
from marketdata.formats.protobuf_schemas import (
    FIELD_NUMBERS,
    KIND_NUMBERS,
    PACKAGE,
    protobuf_type,
)
from marketdata.schemas import SEQUENCED_SCHEMAS

_WIRE: Final = {"uint64": 0, "uint32": 0, "sfixed64": 1, "string": 2, "float": 5}
_BYTES: Final = 2
_PIECE: Final = {"string": 9, "float": 2, "sfixed64": 16, "uint64": 4, "uint32": 13}
"""Wire types and descriptor types; see `google/protobuf/descriptor.proto`."""


class ProtobufFormat:
    """Length-delimited `Event` messages; see the module."""

    name: Final = "protobuf"
    media_type: Final = "application/x-protobuf"
    description: Final = (
        "Each message is a run of Event messages, each behind its length (varint). Prices "
        "are sfixed64 in units of 1e-9, sizes in units of 1e-8; an absent field is null."
    )
    max_rows: Final = 8_192
    renames: Final = False

    def encode(self, batch: pa.RecordBatch, compression: str = "none") -> bytes:
        """See `Format.encode`."""
        rows = batch.num_rows
        if rows == 0:
            return compressed(b"", compression)
        event = _event_pieces(batch)
        outer = varints(lengths_of_rows(event, rows).view(np.uint64))
        return compressed(run_of(join_cells([outer, *event], rows)), compression)

    def encode_each(self, batch: pa.RecordBatch) -> list[bytes]:
        """See `EventFormat.encode_each`: `Event` messages."""
        events: list[bytes] = join_cells(_event_pieces(batch), batch.num_rows).to_pylist()
        return events

    def decode_one(
        self,
        data: bytes,
        kind: str,  # noqa: ARG002 - it is in the bytes
        schema: pa.Schema | None = None,
    ) -> pa.RecordBatch:
        """See `EventFormat.decode_one`. Needs the package's extra `formats`."""
        return self.decode(varint(len(data)) + data, schema)

    def no_events(self) -> bytes:
        """See `Format.no_events`: no message."""
        return b""

    def decode(self, data: bytes, schema: pa.Schema | None = None) -> pa.RecordBatch:
        """See `Format.decode`. Needs the package's extra `formats`.

        Without `schema` the columns are all of the kind but those that are never null and not
        there: of others an absent field does not tell whether it is null or was left out.
        """
        kinds, messages = set(), []
        for event in self._events(decompressed(data)):
            kind = event.WhichOneof("event")
            if kind is None:
                raise FormatError("a message holds no event of a known kind")
            kinds.add(kind)
            messages.append(getattr(event, kind))
        if len(kinds) != 1:
            raise FormatError(f"a frame holds events of one kind, found {sorted(kinds)}")
        wanted = schema if schema is not None else _schema_of(kind, messages[0])
        _known(wanted)
        names = wanted.names
        events = [
            {name: getattr(m, name) if m.HasField(name) else None for name in names}
            for m in messages
        ]
        return batch_of(events, wanted)

    @staticmethod
    def _events(data: bytes) -> list[Any]:
        made_of = event_class()
        events, at = [], 0
        while at < len(data):
            size, shift = 0, 0
            while True:
                if at >= len(data) or shift > 63:
                    raise FormatError("the length of a message is broken")
                byte = data[at]
                at += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            if at + size > len(data):
                raise FormatError("the last message ends early")
            event = made_of()
            try:
                event.ParseFromString(data[at : at + size])
            except Exception as error:  # DecodeError, whose module is loaded late
                raise FormatError(f"not an Event message: {error}") from error
            events.append(event)
            at += size
        return events


def _event_pieces(batch: pa.RecordBatch) -> list[Piece]:
    """The `Event` messages, without their lengths."""
    pieces = _pieces_of(batch)
    size = varints(lengths_of_rows(pieces, batch.num_rows).view(np.uint64))
    return [varint(KIND_NUMBERS[kind_of(batch)] << 3 | _BYTES), size, *pieces]


def _pieces_of(batch: pa.RecordBatch) -> list[Piece]:
    _known(batch.schema)
    pieces: list[Piece] = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        some = _values(field, column)
        if column.null_count == 0:
            pieces += some
        elif column.null_count < len(column):
            valid = column.is_valid().to_numpy(zero_copy_only=False)
            pieces += optional(some, valid, b"")
    return pieces


def _values(field: pa.Field, column: pa.Array) -> list[Piece]:
    type_ = protobuf_type(field)
    tag = varint(FIELD_NUMBERS[field.name] << 3 | _WIRE[type_])
    if column.null_count == len(column):
        return []
    match type_:
        case "string":
            return [tag, *texts(column, _lengths)]
        case "sfixed64":
            return [fixed(values_of(column, "<i8"), tag)]
        case "float":
            return [fixed(values_of(column, "<f4"), tag)]
        case _:
            width = column.type.bit_width // 8
            return [tag, varints(values_of(column, f"<u{width}"))]


def _lengths(lengths: Lengths) -> Piece:
    return varints(lengths.view(np.uint64))


def _schema_of(kind: str, message: Any) -> pa.Schema:
    fields = SEQUENCED_SCHEMAS[kind]
    return schema_of(kind, [f.name for f in fields if f.nullable or message.HasField(f.name)])


def _known(schema: pa.Schema) -> None:
    for field in schema:
        if field.name not in FIELD_NUMBERS:
            raise FormatError(
                f"column {field.name!r} has no field: Protobuf views cannot rename or compute"
                " columns"
            )


@cache
def event_class() -> Any:
    """The class of `Event`, made without generated code."""
    descriptor = import_module("google.protobuf.descriptor_pb2")
    pools = import_module("google.protobuf.descriptor_pool")
    factory = import_module("google.protobuf.message_factory")
    file = descriptor.FileDescriptorProto(
        name="marketdata/events.proto", package=PACKAGE, syntax="proto3"
    )
    for kind, schema in SEQUENCED_SCHEMAS.items():
        message = file.message_type.add(name=kind.capitalize())
        for at, field in enumerate(schema):
            message.oneof_decl.add(name=f"_{field.name}")
            message.field.add(
                name=field.name,
                number=FIELD_NUMBERS[field.name],
                type=_PIECE[protobuf_type(field)],
                label=1,
                oneof_index=at,
                proto3_optional=True,
            )
    event = file.message_type.add(name="Event")
    event.oneof_decl.add(name="event")
    for kind in SEQUENCED_SCHEMAS:
        event.field.add(
            name=kind,
            number=KIND_NUMBERS[kind],
            type=11,
            type_name=f".{PACKAGE}.{kind.capitalize()}",
            label=1,
            oneof_index=0,
        )
    pool = pools.DescriptorPool()
    pool.Add(file)
    return factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.Event"))
