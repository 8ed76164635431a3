"""Routes of ordering."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import PathParameter, QueryParameter

from control_plane.domains.ordering.repository import FINDINGS, GAPS
from control_plane.domains.ordering.schemas import FindingOut, GapOut, InstrumentOut, ResendOut
from control_plane.domains.ordering.service import OrderingService, Selection
from control_plane.errors import NotFoundError
from control_plane.pages import DEFAULT_LIMIT, Cursor, Limit, Moment, Page, moment
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs
from marketdata.ordering import OrderingEventType

MAX_SYMBOL = 255

Key = Annotated[str, PathParameter(max_length=200, description="Id of the gap.")]
Source = Annotated[
    str | None, QueryParameter(max_length=MAX_SYMBOL, description="Only of this source.")
]
Instrument = Annotated[
    str | None, QueryParameter(max_length=MAX_SYMBOL, description="Only of this instrument.")
]
Partition = Annotated[
    int | None, QueryParameter(gt=-1, le=2**31 - 1, description="Only of this partition.")
]


class OrderingController(Controller):
    """What the sequencer finds in the order of its sources."""

    path = "/ordering"
    tags = ("ordering",)

    @get(
        "/gaps",
        operation_id="listGaps",
        summary="List gaps",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 422, 503),
    )
    async def gaps(
        self,
        ordering: NamedDependency[OrderingService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        gap_state: Annotated[
            Literal["open", "closed"] | None,
            QueryParameter(name="state", description="Absent: both."),
        ] = None,
        source: Source = None,
        instrument: Instrument = None,
        partition: Partition = None,
        since: Moment = None,
        sort: Annotated[str | None, GAPS.parameter] = None,
    ) -> Page[GapOut]:
        """Events that are missing in a source's numbers, or were, by the time they were missed."""
        return await ordering.gaps(
            Selection(gap_state, source, instrument, partition, moment(since)),
            cursor=cursor,
            limit=limit,
            sort=sort,
        )

    @get(
        "/gaps/{key:str}",
        operation_id="getGap",
        summary="Describe a gap",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def gap(self, key: Key, ordering: NamedDependency[OrderingService]) -> GapOut:
        """One gap, open or closed."""
        return await ordering.gap(key)

    @post(
        "/gaps/{key:str}/resend",
        operation_id="requestResend",
        summary="Ask for a gap again",
        opt=needs(Permission.OPERATE),
        status_code=202,
        responses=responses(400, 404, 409, 503),
    )
    async def resend(self, key: Key, ordering: NamedDependency[OrderingService]) -> ResendOut:
        """Ask the source for what is still missing.

        202: the requests stand on `control/resend`; the gap closes when the source has answered.
        503: ask again; a source may see a range twice then.
        """
        return await ordering.resend(key)

    @get(
        "/findings",
        operation_id="listFindings",
        summary="List findings",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 422, 503),
    )
    async def findings(
        self,
        ordering: NamedDependency[OrderingService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        finding_type: Annotated[
            OrderingEventType | None, QueryParameter(name="type", description="Absent: all.")
        ] = None,
        source: Source = None,
        instrument: Instrument = None,
        partition: Partition = None,
        since: Moment = None,
        sort: Annotated[str | None, FINDINGS.parameter] = None,
    ) -> Page[FindingOut]:
        """Everything that the sequencer found, as it was found; kept for a while."""
        return await ordering.findings(
            Selection(finding_type, source, instrument, partition, moment(since)),
            cursor=cursor,
            limit=limit,
            sort=sort,
        )

    @get(
        "/instruments/{instrument:path}",
        operation_id="getInstrument",
        summary="Where an instrument stands",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def instrument(
        self,
        instrument: Annotated[
            str, PathParameter(description=f"Name, as published; at most {MAX_SYMBOL} characters.")
        ],
        ordering: NamedDependency[OrderingService],
    ) -> InstrumentOut:
        """Current sequence, epoch and sources of an instrument, read from the log, and its gaps."""
        # A path, so that names with a slash (EUR/USD) work; it begins with the slash before it.
        name = str(instrument).removeprefix("/")
        if len(name) > MAX_SYMBOL:
            raise NotFoundError("instrument", name, hint="no name is that long")
        return await ordering.instrument(name)
