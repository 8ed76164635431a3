"""Routes of the audit log."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter

from control_plane.domains.audit.chain import Head
from control_plane.domains.audit.repository import LISTING, Wanted
from control_plane.domains.audit.schemas import AuditEntryOut, Outcome, VerificationOut
from control_plane.domains.audit.service import AuditService
from control_plane.pages import (
    DEFAULT_LIMIT,
    LARGEST_NUMBER,
    Cursor,
    Limit,
    Moment,
    Page,
    moment,
)
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs

MOST_VERIFIED = 100_000

Text = Annotated[str | None, QueryParameter(max_length=200, pattern=r"^[^\x00]*$")]


class AuditController(Controller):
    """Who did what."""

    path = "/audit"
    tags = ("audit",)
    opt = needs(Permission.OBSERVE)

    @get(
        "/",
        operation_id="listAuditEntries",
        summary="Who did what",
        responses=responses(400, 422, 503),
    )
    async def list_(
        self,
        audit: NamedDependency[AuditService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        sort: Annotated[str | None, LISTING.parameter] = None,
        actor: Text = None,
        operation: Text = None,
        action: Text = None,
        resource: Text = None,
        resource_id: Text = None,
        request_id: Text = None,
        outcome: Annotated[Outcome | None, QueryParameter()] = None,
        since: Moment = None,
        until: Moment = None,
    ) -> Page[AuditEntryOut]:
        """Changes, refused attempts and repairs, newest first.

        Recorded at `since` or later, and before `until`.
        """
        wanted = Wanted(
            actor=actor,
            operation=operation,
            action=action,
            resource=resource,
            resource_id=resource_id,
            outcome=outcome,
            request_id=request_id,
            since=moment(since),
            until=moment(until, "until"),
        )
        return await audit.page(wanted, cursor=cursor, limit=limit, sort=sort)

    @get(
        "/verification",
        operation_id="verifyAudit",
        summary="Whether the audit log is whole",
        responses=responses(400, 422, 503),
    )
    async def verify(
        self,
        audit: NamedDependency[AuditService],
        after: Annotated[
            int,
            QueryParameter(
                ge=0,
                le=LARGEST_NUMBER,
                description="Begin behind this place of the chain, taken as it stands.",
            ),
        ] = 0,
        limit: Annotated[
            int, QueryParameter(ge=1, le=MOST_VERIFIED, description="Most entries to check.")
        ] = 10_000,
        head: Annotated[
            str | None,
            QueryParameter(
                pattern=r"^[0-9]{1,18}:[0-9a-f]{64}$",
                description="A head that was noted before, `sequence:digest`: must be there still.",
            ),
        ] = None,
    ) -> VerificationOut:
        """Compute the digests of entries again: `holds` tells whether something was changed.

        Repeat with `after` set to `next_after` until that is null.
        """
        return await audit.verify(after=after, limit=limit, noted=noted_head(head))


def noted_head(written: str | None) -> Head | None:
    """A head as it is written, `sequence:digest`."""
    if written is None:
        return None
    sequence, _, digest = written.partition(":")
    return Head(int(sequence), bytes.fromhex(digest))
