"""The list of published schemas as it travels over HTTP."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from control_plane.domains.subscriptions.schemas import ColumnOut


class SchemaFileOut(msgspec.Struct):
    """A file with a schema."""

    format: Annotated[str, Meta(description="Of the messages that it describes.")]
    media_type: str
    path: Annotated[str, Meta(examples=["/v1/schemas/1/trade.avsc"])]


class KindOut(msgspec.Struct):
    """The events of one kind."""

    kind: str
    columns: Annotated[list[ColumnOut], Meta(description="With their Arrow types, in order.")]
    files: list[SchemaFileOut]


class SchemaVersionOut(msgspec.Struct):
    """One version of all schemas."""

    version: int
    kinds: list[KindOut]
