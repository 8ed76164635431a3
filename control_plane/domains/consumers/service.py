"""Rules of consumers: names are unique among those not deleted; none goes while subscribed.

A change of what a consumer may receive, by its entitlements or by suspending it, commits together
with the plan that it makes for its subscriptions. A set that entitlements name cannot be deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from msgspec import UNSET
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Database, Lock, integrity_constraint, lock
from control_plane.domains.consumers import repository
from control_plane.domains.consumers.models import UNIQUE_NAME, Consumer
from control_plane.domains.consumers.schemas import (
    BOUNDING_FIELDS,
    OWN_FIELDS,
    ConsumerCreate,
    ConsumerOut,
    ConsumerUpdate,
    EntitlementsUpdate,
)
from control_plane.domains.events.repository import Change, record
from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.rules import repository as rule_rows
from control_plane.domains.subscriptions import followed
from control_plane.domains.subscriptions.draining import drain_no_longer
from control_plane.domains.subscriptions.models import Subscription
from control_plane.domains.subscriptions.moves import follow_bounds
from control_plane.domains.subscriptions.served import unserved
from control_plane.domains.subscriptions.service import Publication
from control_plane.domains.tokens.repository import revoke_subject
from control_plane.errors import (
    ConflictError,
    FieldProblem,
    ForbiddenError,
    InvalidRequestError,
)
from control_plane.pages import Page, check_match
from control_plane.rows import touch
from marketdata.entitlements import Entitlements, bounded
from marketdata.plans import ViewSpec

log = structlog.get_logger(__name__)


def consumer_out(row: Consumer) -> ConsumerOut:
    """A row as it travels."""
    return ConsumerOut(
        id=row.id,
        name=row.name,
        owner=row.owner,
        contact=row.contact,
        region=row.region,
        workflow=row.workflow,
        labels=row.labels,
        entitlements=msgspec.convert(row.entitlements, Entitlements),
        suspended=row.suspended,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


class ConsumerService:
    """Register, describe, change and delete consumers."""

    def __init__(
        self,
        database: Database,
        publication: Publication,
        *,
        default_entitlements: Entitlements,
        lanes: Callable[[], Collection[str]],
        drain_seconds: float,
        wait_seconds: float,
    ) -> None:
        self._database = database
        self._publication = publication
        self._default_entitlements = default_entitlements
        self._lanes = lanes
        self._drain_seconds = drain_seconds
        self._wait_seconds = wait_seconds

    async def create(self, data: ConsumerCreate) -> tuple[ConsumerOut, int]:
        """Register a consumer; gives its version too.

        Raises:
            ConflictError: the name is taken.
            InvalidRequestError: the entitlements name an instrument set that is not there.
        """
        entitlements = data.entitlements
        if entitlements is UNSET:
            entitlements = self._default_entitlements
        self._require_served(entitlements)
        row = Consumer(
            id=repository.new_consumer_id(),
            name=data.name,
            owner=data.owner,
            contact=data.contact,
            region=data.region,
            workflow=data.workflow,
            labels=data.labels,
            entitlements=msgspec.to_builtins(entitlements),
        )
        try:
            async with self._database.transaction() as session:
                if entitlements.instrument_sets:
                    await lock(session, Lock.PLAN_SEQUENCE)  # sets are deleted under it
                    await _require_sets(session, entitlements)
                session.add(row)
                await session.flush()
                await session.refresh(row)
                await record(session, _told(EventType.CONSUMER_CREATED, row))
        except IntegrityError as error:
            if integrity_constraint(error) == UNIQUE_NAME:
                raise ConflictError(
                    f"There is a consumer {data.name!r} already; use it or choose another name."
                ) from None
            raise
        log.info("consumer registered", consumer=row.id, name=row.name)
        return consumer_out(row), row.version

    async def get(self, key: str, *, only: str | None = None) -> tuple[ConsumerOut, int]:
        """The consumer with this id or name, and its version."""
        async with self._database.transaction() as session:
            row = await repository.find(session, key, only=only)
            return consumer_out(row), row.version

    async def page(
        self,
        *,
        cursor: str | None,
        limit: int,
        sort: str | None = None,
        name: str | None = None,
        region: str | None = None,
        workflow: str | None = None,
        suspended: bool | None = None,
        labels: Sequence[str] | None = None,
        only: str | None = None,
    ) -> Page[ConsumerOut]:
        """One page of consumers."""
        asked = repository.LISTING.ask(sort, cursor, limit)
        async with self._database.transaction() as session:
            rows = await repository.page(
                session,
                asked,
                name=name,
                region=region,
                workflow=workflow,
                suspended=suspended,
                labels=labels,
                only=only,
            )
        return asked.page([consumer_out(row) for row in rows], rows)

    async def update(
        self, key: str, data: ConsumerUpdate, if_match: str | None, *, only: str | None = None
    ) -> tuple[ConsumerOut, int]:
        """Change what `data` names; gives the new version too.

        Other entitlements give the consumer's subscriptions other views, in the same transaction,
        and so do a region, a workflow or labels by which other routing rules select it.

        Raises:
            ForbiddenError: the caller is a consumer (`only`) and a field the platform team's, or
                routing rules go by it.
            PreconditionFailedError: If-Match does not hold.
            InvalidRequestError: the entitlements name an instrument set that is not there, or the
                workflow would wait for itself.
        """
        plan = None
        async with self._database.transaction() as session:
            if any(getattr(data, name) is not UNSET for name in BOUNDING_FIELDS):
                await lock(session, Lock.PLAN_SEQUENCE)
            row = await repository.find(session, key, only=only, for_update=True)
            if only is not None:
                _require_own_fields(data)
            check_match(if_match, row.version)
            policy = await rule_rows.policy(session)
            before, selecting = policy.allowed(row), policy.selecting(row)
            changed = await self._apply(session, row, data)
            if only is not None and policy.selecting(row) != selecting:
                raise ForbiddenError("Routing rules go by these labels: ask the platform team.")
            await session.flush()
            if "workflow" in changed:
                await followed.require_no_circle(session, row)
            allowed = policy.allowed(row)
            if allowed != before:
                drain = 0.0 if row.suspended else self._drain_seconds
                plan = await follow_bounds(
                    session, {row.id: allowed}, reason="entitlements", drain_seconds=drain
                )
                log.info("entitlements changed", consumer=row.id, version=row.version, plan=plan)
            if data.suspended is True:
                await drain_no_longer(session, Subscription.consumer_id == row.id)
            await record(session, *_told_of(row, changed, plan))
            await session.refresh(row)
        if plan is not None or data.suspended is True:
            await self._publication.published(self._wait_seconds)
        return consumer_out(row), row.version

    async def delete(self, key: str, if_match: str | None, *, by: str) -> None:
        """Delete a consumer and revoke its tokens.

        ConflictError while it has subscriptions that are not closed.
        """
        async with self._database.transaction() as session:
            row = await repository.find(session, key, for_update=True)
            check_match(if_match, row.version)
            if await repository.has_live_subscriptions(session, row.id):
                raise ConflictError(
                    f"Consumer {row.name!r} has subscriptions; delete those first "
                    f"(GET /v1/subscriptions?consumer={row.id})."
                )
            row.deleted_at = datetime.now(UTC)
            touch(row)
            revoke_subject(session, row.id, by=by)
            await record(session, _told(EventType.CONSUMER_DELETED, row))
        log.info("consumer deleted", consumer=row.id)

    async def _apply(self, session: AsyncSession, row: Consumer, data: ConsumerUpdate) -> list[str]:
        """Change a row; gives the fields that are other ones."""
        fields = {name: getattr(row, name) for name in data.__struct_fields__}
        for name in fields:
            value = getattr(data, name)
            if value is not UNSET and name != "entitlements":
                setattr(row, name, value)
        if data.entitlements is not UNSET:
            row.entitlements = await self._changed(session, row, data.entitlements)
        if session.is_modified(row):
            touch(row)
        return [name for name, value in fields.items() if getattr(row, name) != value]

    async def _changed(
        self, session: AsyncSession, row: Consumer, change: EntitlementsUpdate
    ) -> dict[str, Any]:
        """The entitlements of a consumer after a change; what they name must be there."""
        before = msgspec.convert(row.entitlements, Entitlements)
        after = change.applied_to(before)
        if after == before:
            return row.entitlements
        await _require_sets(session, after)
        if change.minimum_delay_seconds or change.maximum_rate:
            self._require_served(after)
        made: dict[str, Any] = msgspec.to_builtins(after)
        return made

    def _require_served(self, entitlements: Entitlements) -> None:
        """Refuse what no function serves: nothing would come."""
        least = bounded(ViewSpec(), entitlements.bounds()).delivery
        nobody = unserved(least, self._lanes())
        if nobody:
            members = {"delay_seconds": "minimum_delay_seconds"}
            pointer = f"/entitlements/{members.get(nobody.member, 'maximum_rate')}"
            problem = FieldProblem(pointer, nobody.detail, hint=nobody.hint)
            raise InvalidRequestError(f"entitlements: {nobody.detail}.", [problem])


def _told(what: EventType, row: Consumer, **more: Any) -> Change:
    return Change(what, {"name": row.name, **more}, consumer=row.id)


def _told_of(row: Consumer, changed: list[str], plan: int | None) -> list[Change]:
    """The event of a change of some fields; none when nothing has changed."""
    if not changed:
        return []
    what = EventType.CONSUMER_CHANGED
    if "suspended" in changed:
        what = EventType.CONSUMER_SUSPENDED if row.suspended else EventType.CONSUMER_RESUMED
    return [_told(what, row, changed=changed, plan=plan)]


async def _require_sets(session: AsyncSession, entitlements: Entitlements) -> None:
    """Refuse entitlements that name an instrument set which is not there."""
    named = entitlements.instrument_sets or ()
    missing = sorted(set(named) - set(await set_rows.contents(session, named)))
    if missing:
        detail = f"there is no instrument set {missing[0]!r}"
        problem = FieldProblem(
            "/entitlements/instrument_sets", detail, hint="POST /v1/instrument-sets"
        )
        raise InvalidRequestError(f"entitlements: {detail}.", [problem])


def _require_own_fields(data: ConsumerUpdate) -> None:
    given = (name for name in data.__struct_fields__ if getattr(data, name) is not UNSET)
    foreign = sorted(set(given) - OWN_FIELDS)
    if foreign:
        raise ForbiddenError(f"Only the platform team changes {', '.join(foreign)}.")
