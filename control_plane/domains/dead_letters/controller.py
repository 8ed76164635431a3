"""Routes of dead letters."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter

from control_plane.domains.dead_letters.letters import Function
from control_plane.domains.dead_letters.reading import Wanted
from control_plane.domains.dead_letters.schemas import (
    LetterDetailOut,
    LetterOut,
    LetterResendOut,
    LettersResend,
)
from control_plane.domains.dead_letters.service import DeadLetterService
from control_plane.domains.operations.controller import accepted
from control_plane.domains.operations.schemas import OperationOut
from control_plane.domains.operations.service import OperationService
from control_plane.idempotency.middleware import Repeatable
from control_plane.pages import DEFAULT_LIMIT, Cursor, Limit, Moment, Page, moment
from control_plane.problems import responses
from control_plane.security.permissions import Permission, needs

BYTES = "application/octet-stream"

Key = Annotated[str, PathParameter(max_length=200, description="Id of the letter.")]


class DeadLetterController(Controller):
    """What the functions could not process."""

    path = "/dead-letters"
    tags = ("dead letters",)

    @get(
        operation_id="listDeadLetters",
        summary="List dead letters",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 422, 503),
    )
    async def letters(
        self,
        dead_letters: NamedDependency[DeadLetterService],
        cursor: Cursor = None,
        limit: Limit = DEFAULT_LIMIT,
        function: Annotated[
            Function | None, QueryParameter(description="Only of this function; absent: all.")
        ] = None,
        code: Annotated[
            str | None, QueryParameter(max_length=200, description="Only with this reason code.")
        ] = None,
        partition: Annotated[
            int | None, QueryParameter(gt=-1, le=2**31 - 1, description="Only of this partition.")
        ] = None,
        since: Moment = None,
    ) -> Page[LetterOut]:
        """Function by function and partition by partition, each in log order, oldest first.

        `since`: only those stored from this time on. A request looks at 2,000 letters at most: a
        page may be short or empty and still have a `next_cursor`. Go on until it is null.
        """
        wanted = Wanted(function, code, partition, moment(since))
        return await dead_letters.letters(wanted, cursor=cursor, limit=limit)

    @get(
        "/{key:str}",
        operation_id="getDeadLetter",
        summary="Describe a dead letter",
        opt=needs(Permission.OBSERVE),
        responses=responses(400, 404, 503),
    )
    async def letter(
        self, key: Key, dead_letters: NamedDependency[DeadLetterService]
    ) -> LetterDetailOut:
        """One letter, with the checksum of its payload."""
        return await dead_letters.letter(key)

    @get(
        "/{key:str}/payload",
        operation_id="getDeadLetterPayload",
        summary="Bytes of a dead letter",
        opt=needs(Permission.OBSERVE),
        media_type=BYTES,
        responses=responses(400, 404, 503),
    )
    async def payload(
        self, key: Key, dead_letters: NamedDependency[DeadLetterService]
    ) -> Response[bytes]:
        """The input as the function got it, as far as the letter holds it."""
        return Response(await dead_letters.payload(key), media_type=BYTES)

    @post(
        "/{key:str}/resend",
        operation_id="resendDeadLetter",
        operation_class=Repeatable,
        summary="Send a dead letter's frame again",
        opt=needs(Permission.OPERATE),
        status_code=200,
        responses=responses(400, 404, 409, 422, 503),
    )
    async def resend(
        self, key: Key, dead_letters: NamedDependency[DeadLetterService]
    ) -> LetterResendOut:
        """Send the frame to its partition of `ingest`, once, however often this is called.

        200: it is stored there; refused again, it comes back as a new letter. 409: truncated, or
        of the distributor. 503: repeat the call.
        """
        return await dead_letters.resend(key)


class DeadLettersController(Controller):
    """Many dead letters at once."""

    path = "/dead-letters:resend"
    tags = ("dead letters",)

    @post(
        "/",
        operation_id="resendDeadLetters",
        operation_class=Repeatable,
        summary="Send dead letters again",
        opt=needs(Permission.OPERATE),
        status_code=202,
        responses=responses(400, 409, 413, 422, 503),
    )
    async def resend_all(
        self, data: JSONBody[LettersResend], operations: NamedDependency[OperationService]
    ) -> Response[OperationOut]:
        """Send the frames of all letters of the sequencer that match, each once.

        202: stored, and carried out by itself; `Location` names the operation. Its `result` counts
        those `sent`, `sent_before`, `refused` (a single resend says why) and `gone` (no longer
        kept). Letters that come later, as those of frames refused again, are not among them. 409:
        some are being sent already.
        """
        return accepted(await operations.ask_resend(msgspec.to_builtins(data)))
