"""Puts back what instrument sets and reference tables held; in the session's transaction.

The earlier plan says what the sets held that its views named, and which versions of tables. Each is
a new version of what there is now.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.consumers import repository as consumer_rows
from control_plane.domains.events.repository import Change
from control_plane.domains.events.schemas import EventType
from control_plane.domains.instrument_sets import repository as set_rows
from control_plane.domains.instrument_sets.models import InstrumentSet, InstrumentSetVersion
from control_plane.domains.instrument_sets.service import told_of as told_of_set
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.reference_tables.models import ReferenceTableRow, ReferenceTableVersion
from control_plane.domains.reference_tables.service import told_of as told_of_table
from control_plane.domains.rollbacks.outcome import Outcome
from control_plane.errors import NotFoundError
from marketdata.plans import Plan
from marketdata.reference import TableContent

SetVersion = tuple[InstrumentSet, InstrumentSetVersion]
TableVersion = tuple[ReferenceTableRow, ReferenceTableVersion]


class Contents:
    """New versions of sets and tables, whose plan is told when it is known."""

    def __init__(self) -> None:
        self._sets: list[SetVersion] = []
        self._tables: list[TableVersion] = []

    async def put_back_sets(
        self,
        session: AsyncSession,
        then: Plan,
        outcome: Outcome,
        *,
        ruling: Collection[str],
        widen: bool,
    ) -> None:
        """Let sets hold again what they held.

        Args:
            ruling: the sets that enabled routing rules name.
            widen: whether what these hold may be another.
        """
        for name, instruments in sorted(then.sets.items()):
            row = await set_rows.last_named(session, name)
            if row is None:
                continue  # rows of sets are never removed
            newest = await set_rows.version(session, row.id, row.version)
            held = set() if row.deleted_at else set(newest.instruments)
            if held == set(instruments) and row.deleted_at is None:
                continue
            gained = set(instruments) - held
            if gained and await consumer_rows.are_entitled_by(session, name):
                detail = f"entitlements name it: {len(gained)} instruments would be allowed again"
                outcome.keep("instrument_set", name, "entitlements", detail, id_=row.id)
                continue
            if name in ruling and not widen:
                detail = "routing rules name it: they may allow more by what it held"
                outcome.keep("instrument_set", name, "would_widen", detail, id_=row.id)
                continue
            before = {"version": row.version, "instruments": len(held)}
            if row.deleted_at is not None:
                before["instruments"], row.deleted_at = 0, None
            row.version += 1
            version = await set_rows.add_version(
                session, row, before=held, after=instruments, description=newest.description
            )
            self._sets.append((row, version))
            after = {"version": row.version, "instruments": len(version.instruments)}
            outcome.put("instrument_set", name, before, after, id_=row.id)

    async def put_back_tables(self, session: AsyncSession, then: Plan, outcome: Outcome) -> None:
        """Let reference tables hold again what they held."""
        for name, ref in sorted((then.tables or {}).items()):
            try:
                row = await table_rows.find(session, name, for_update=True)
            except NotFoundError:
                outcome.keep("reference_table", name, "deleted_since", "make and fill it again")
                continue
            newest = await table_rows.newest(session, row)
            if newest.digest == ref.digest:
                continue
            held = await table_rows.last_with(session, row, ref.digest)
            if held is None or held.content is None:
                detail = f"the content of version {ref.version} is not kept any more: fill it again"
                outcome.keep("reference_table", name, "not_kept", detail, id_=row.id)
                continue
            row.version += 1
            content = TableContent(held.content, held.digest, held.rows)
            version = await table_rows.add_version(session, row, content)
            self._tables.append((row, version))
            before = {"version": newest.version, "rows": newest.rows}
            after = {"version": version.version, "rows": version.rows}
            outcome.put("reference_table", name, before, after, id_=row.id)

    async def hold_from(self, session: AsyncSession, plan: int) -> list[Change]:
        """Note the plan from which the versions hold; gives the events of them."""
        for _, set_version in self._sets:
            set_version.plan = plan
        for _, table_version in self._tables:
            table_version.plan = plan
        await session.flush()
        sets = [told_of_set(EventType.SET_CHANGED, *each) for each in self._sets]
        return [*sets, *(told_of_table(EventType.TABLE_CHANGED, *each) for each in self._tables)]
