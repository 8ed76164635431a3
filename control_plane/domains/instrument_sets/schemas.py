"""Instrument sets as they travel over HTTP."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from control_plane.domains.consumers.schemas import Name, Text
from control_plane.errors import FieldProblem, InvalidRequestError
from marketdata.filters.parse import MAX_IN_VALUES

Instrument = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
Instruments = Annotated[
    list[Instrument],
    Meta(
        max_length=MAX_IN_VALUES,
        description="In any order; repeats count once.",
        examples=[["AAPL", "MSFT"]],
    ),
]


class InstrumentSetCreate(msgspec.Struct, forbid_unknown_fields=True):
    """A set to make; filters name it as `instrument IN SET 'name'`."""

    name: Name
    instruments: Instruments
    description: Text = ""


class InstrumentSetUpdate(msgspec.Struct, forbid_unknown_fields=True):
    """What to change of a set; absent fields stay.

    `instruments` says what the set holds from now on; `remove` and `add`, in this order, change
    what it holds then.
    """

    instruments: Instruments | UnsetType = UNSET
    add: Instruments = []
    remove: Instruments = []
    description: Text | UnsetType = UNSET

    def applied_to(self, before: Iterable[str]) -> set[str]:
        """What the set holds after the change.

        Raises:
            InvalidRequestError: more than a set may hold.
        """
        held = set(before if self.instruments is UNSET else self.instruments)
        after = (held - set(self.remove)) | set(self.add)
        if len(after) > MAX_IN_VALUES:
            raise InvalidRequestError(
                f"The set would hold {len(after)} instruments; at most {MAX_IN_VALUES} fit.",
                [FieldProblem("/add", "make several sets of them")],
            )
        return after


class InstrumentSetSummary(msgspec.Struct):
    """A set without its instruments."""

    id: str
    name: str
    description: str
    version: int
    instrument_count: int
    plan: Annotated[int, Meta(description="The plan from which this version holds.")]
    created_at: datetime
    updated_at: datetime


class InstrumentSetOut(InstrumentSetSummary):
    """A set with its instruments, sorted."""

    instruments: list[str]


class VersionSummary(msgspec.Struct):
    """One change of a set."""

    version: int
    description: str
    instrument_count: int
    added: list[str]
    removed: list[str]
    plan: int
    correlation_id: Annotated[str, Meta(description="Of the request that made the change.")]
    created_at: datetime


class VersionOut(VersionSummary):
    """One change of a set, and what the set held after it."""

    instruments: list[str]
