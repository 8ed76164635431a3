"""Queries on shared transformations; each runs in the transaction of the session given."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.domains.subscriptions.models import State, Subscription
from control_plane.domains.transformations.models import SharedTransformation
from control_plane.errors import NotFoundError
from control_plane.listing import Listing, PageRequest, equal

LISTING = Listing(SharedTransformation, "created_at", "name", "version")

_LIVE = SharedTransformation.deleted_at.is_(None)


def new_transformation_id() -> str:
    """A fresh id; all have one length."""
    return "f" + secrets.token_hex(8)


async def find(session: AsyncSession, key: str) -> SharedTransformation:
    """The version with this id or reference (`name@version`); NotFoundError for none."""
    name, _, version = key.partition("@")
    query = select(SharedTransformation).where(_LIVE)
    if version.isascii() and version.isdigit() and len(version) <= 9:
        query = query.where(
            SharedTransformation.name == name, SharedTransformation.version == int(version)
        )
    else:
        query = query.where(SharedTransformation.id == key)
    row = await session.scalar(query)
    if row is None:
        raise NotFoundError("transformation", key)
    return row


async def next_version(session: AsyncSession, name: str) -> int:
    """The number of a name's next version; deleted ones count."""
    newest = select(func.max(SharedTransformation.version)).where(SharedTransformation.name == name)
    return int(await session.scalar(newest) or 0) + 1


async def is_used(session: AsyncSession, transformation_id: str) -> bool:
    """Whether a subscription that is not closed refers to a version."""
    used = exists().where(
        Subscription.transformation_id == transformation_id, Subscription.state != State.CLOSED
    )
    return bool(await session.scalar(select(used)))


async def page(
    session: AsyncSession, asked: PageRequest, *, name: str | None
) -> Sequence[SharedTransformation]:
    """The versions of a page."""
    conditions = equal((SharedTransformation.name, name))
    query = asked.of(select(SharedTransformation).where(_LIVE, *conditions))
    return (await session.scalars(query)).all()
