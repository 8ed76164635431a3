"""What requests refer to: shared transformations (decision 44), reference tables (decision 50)."""

from __future__ import annotations

import asyncio

import msgspec
from msgspec import UNSET
from sqlalchemy.ext.asyncio import AsyncSession

from control_plane.database import Lock, lock
from control_plane.domains.reference_tables import repository as table_rows
from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.domains.subscriptions.view_check import named_tables, view_spec
from control_plane.domains.transformations import repository as transformation_rows
from control_plane.domains.transformations.models import SharedTransformation
from control_plane.errors import FieldProblem, InvalidRequestError, NotFoundError
from marketdata.plans import ViewSpec
from marketdata.transformations import Transformation

_SHARED = "/shared_transformation"


def refers(data: SubscriptionCreate) -> bool:
    """Whether a request refers to a shared transformation; InvalidRequestError beside its own."""
    if data.shared_transformation is UNSET:
        return False
    if data.transformation != Transformation():
        raise InvalidRequestError(
            "There are two transformations.",
            [FieldProblem(_SHARED, "beside `transformation`", hint="give one of the two")],
        )
    return True


async def taken_over(
    session: AsyncSession, data: SubscriptionCreate
) -> tuple[SubscriptionCreate, SharedTransformation]:
    """A request with what the shared transformation holds that it refers to, and that.

    Raises:
        InvalidRequestError: there is none of this name and version.
    """
    try:
        reference = await transformation_rows.find(session, str(data.shared_transformation))
    except NotFoundError as error:
        hint = "GET /v1/transformations lists those that there are"
        raise InvalidRequestError(
            str(error), [FieldProblem(_SHARED, str(error), hint=hint)]
        ) from error
    taken = msgspec.convert(reference.transformation, Transformation)
    return msgspec.structs.replace(data, transformation=taken), reference


async def enriched_spec(session: AsyncSession, data: SubscriptionCreate) -> ViewSpec:
    """The view that a request asks for, with what the reference tables declare that it names.

    None of them can be deleted before the transaction has ended.

    Raises:
        InvalidRequestError: the request is refused.
    """
    if named_tables(data.transformation):
        await lock(session, Lock.PLAN_SEQUENCE)
    return await declared_spec(session, data)


async def declared_spec(session: AsyncSession, data: SubscriptionCreate) -> ViewSpec:
    """As `enriched_spec`, but the tables may be deleted at any time.

    Raises:
        InvalidRequestError: the request is refused.
    """
    declared = await table_rows.specs(session, named_tables(data.transformation))
    return await asyncio.to_thread(view_spec, data, declared)
