"""Shared transformations as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from control_plane.domains.consumers.schemas import Name, Text
from marketdata.transformations import Transformation


class TransformationCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A version to make: the first of its name, or the next."""

    name: Name
    transformation: Transformation
    description: Text = ""


class TransformationOut(msgspec.Struct):
    """One version of a shared transformation."""

    id: str
    name: str
    version: int
    reference: Annotated[
        str,
        Meta(
            description="What a subscription gives as `shared_transformation`.", examples=["mids@1"]
        ),
    ]
    description: str
    transformation: Annotated[Transformation, Meta(description="In normal form.")]
    correlation_id: Annotated[str, Meta(description="Of the request that made the version.")]
    created_at: datetime
