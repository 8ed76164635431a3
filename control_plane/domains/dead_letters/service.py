"""Browses dead letters and sends the frames of the sequencer's to `ingest` again, once each."""

from __future__ import annotations

import hashlib
from typing import Any

import structlog

from control_plane.broker import Broker
from control_plane.database import Database
from control_plane.domains.dead_letters import repository
from control_plane.domains.dead_letters.letters import Letter, LetterId
from control_plane.domains.dead_letters.models import DeadLetterResend
from control_plane.domains.dead_letters.reading import Wanted, read_letter, read_letters
from control_plane.domains.dead_letters.schemas import (
    LetterDetailOut,
    LetterOut,
    LetterResend,
    LetterResendOut,
)
from control_plane.errors import (
    ConflictError,
    NotFoundError,
)
from control_plane.pages import Page, foreign_cursor
from control_plane.topic_reads import TopicReads
from marketdata.topics import INGEST_EVENTS, partition_index, partition_topic

LETTER_PROPERTY = "dead_letter"
"""Of a frame that was sent again: the letter it comes from."""

log = structlog.get_logger(__name__)


class DeadLetterService:
    """Answers from the topics themselves; only resends are in the database."""

    def __init__(self, database: Database, broker: Broker, *, timeout_seconds: float) -> None:
        self._database = database
        self._broker = broker
        self._reads = TopicReads(broker, "The dead letters", timeout_seconds=timeout_seconds)

    def close(self) -> None:
        """End the threads that read letters."""
        self._reads.close()

    async def letters(self, wanted: Wanted, *, cursor: str | None, limit: int) -> Page[LetterOut]:
        """One page of letters, oldest first within a partition.

        Raises:
            InvalidRequestError: the cursor is not ours, or the time has no offset.
            BrokerUnavailableError: the topics cannot be read.
        """
        after = None if cursor is None else _continued(cursor)
        found, go_on = await self._reads.read(
            lambda client, seconds: read_letters(
                client, wanted, after=after, limit=limit, timeout_s=seconds
            )
        )
        async with self._database.transaction() as session:
            resends = await repository.resends_of(session, [str(each.id) for each in found])
        items = [LetterOut(**_told(each, resends.get(str(each.id)))) for each in found]
        return Page(items, None if go_on is None else str(go_on))

    async def letter(self, key: str) -> LetterDetailOut:
        """One letter; NotFoundError, BrokerUnavailableError."""
        found, payload = await self._find(key)
        async with self._database.transaction() as session:
            resend = await repository.resend_of(session, key)
        return LetterDetailOut(
            **_told(found, resend), payload_sha256=hashlib.sha256(payload).hexdigest()
        )

    async def payload(self, key: str) -> bytes:
        """The bytes of a letter; NotFoundError, BrokerUnavailableError."""
        return (await self._find(key))[1]

    async def resend(self, key: str) -> LetterResendOut:
        """Send the frame of a letter to its partition of `ingest`; once, however often called.

        Raises:
            NotFoundError: there is no such letter (any more).
            ConflictError: its frame cannot be sent again.
            BrokerUnavailableError: nothing is known of the frame: the same call may be repeated.
        """
        found, payload = await self._find(key)
        topic = _destination(found)
        async with self._database.transaction() as session:
            claimed = await repository.claim(session, key, topic)
            row = await repository.resend_of(session, key)
            if row is None:
                raise NotFoundError("resend", key)
            if claimed:
                # Sent before the commit: should that fail, the broker recognises the next attempt.
                row.position = await self._broker.publish_once(
                    topic,
                    payload,
                    properties={**found.original, LETTER_PROPERTY: key},
                    name=f"dead-letter-{key}",
                )
        log.info("dead letter sent again", letter=key, topic=topic, repeated=not claimed)
        return LetterResendOut(id=key, repeated=not claimed, resend=_resend_out(row))

    async def _find(self, key: str) -> tuple[Letter, bytes]:
        try:
            place = LetterId.parse(key)
        except ValueError:
            raise NotFoundError("dead letter", key) from None
        found = await self._reads.read(
            lambda client, seconds: read_letter(client, place, timeout_s=seconds)
        )
        if found is None or found.payload is None:
            raise NotFoundError("dead letter", key, hint="its topic keeps letters for a while only")
        return found, found.payload


def _continued(cursor: str) -> LetterId:
    try:
        return LetterId.parse(cursor)
    except ValueError:
        raise foreign_cursor() from None


def _destination(letter: Letter) -> str:
    """The topic that a letter's frame goes to again; ConflictError when it cannot."""
    if letter.id.function != "sequencer":
        raise ConflictError(
            f"A frame that the {letter.id.function} could not deliver is in the log already, and"
            " the views have gone on behind it: sent again it would be sequenced twice, and out of"
            " its order."
        )
    if letter.truncated_from is not None:
        raise ConflictError(
            f"The letter holds {letter.size} of the frame's {letter.truncated_from} bytes; publish"
            " the events anew from their source."
        )
    source = letter.properties.get("source_topic", "")
    if source != partition_topic(INGEST_EVENTS, partition_index(source)):
        raise ConflictError(
            f"The frame came from {source!r}, which is no partition of {INGEST_EVENTS}; publish the"
            " events anew from their source."
        )
    return source


def _told(letter: Letter, resend: DeadLetterResend | None) -> dict[str, Any]:
    told = letter.properties.get
    return {
        "id": str(letter.id),
        "function": letter.id.function,
        "partition": letter.id.partition,
        "state": "kept" if resend is None else "resent",
        "reason_code": letter.code,
        "reason": told("reason", ""),
        "source_topic": told("source_topic", ""),
        "source_position": told("source_position", ""),
        "failed_at": letter.failed_at,
        "stored_at": letter.stored_at,
        "size_bytes": letter.size,
        "truncated_from_bytes": letter.truncated_from,
        "original_properties": letter.original,
        "resend": None if resend is None else _resend_out(resend),
    }


def _resend_out(row: DeadLetterResend) -> LetterResend:
    return LetterResend(row.topic, row.position, row.resent_at)
