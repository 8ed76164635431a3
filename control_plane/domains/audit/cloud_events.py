"""A sealed entry of the audit log as a CloudEvent (1.0, JSON, structured mode), and back again.

Pure functions. What an entry's digest covers can be read from the event alone: `before`, `after`
and `detail` stand in it as the text that PostgreSQL made of them, so whoever checks the chain takes
them as they stand (`json.RawMessage`, `msgspec.Raw`) and does not write anew what was parsed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from control_plane.domains.audit.chain import Link

CONTENT_TYPE = "application/cloudevents+json; charset=UTF-8"
SOURCE = "urn:dds:audit"
TYPE = "dds.audit.entry"
DOCUMENTS = 3
"""How many values of an entry are JSON: the last ones."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ABSENT = "null"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry as GET /v1/audit tells it, in the order in which its digest covers it."""

    id: int
    recorded_at: datetime
    actor: str
    role: str
    token_id: str
    operation: str
    request_id: str
    address: str
    database_user: str
    action: str
    resource: str
    resource_id: str
    outcome: str
    before: msgspec.Raw
    after: msgspec.Raw
    detail: msgspec.Raw
    sequence: int
    digest: str


class CloudEvent(msgspec.Struct, frozen=True):
    """The event; `id` is the head of the chain behind the entry, as a verification takes it."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    datacontenttype: str
    data: Entry


def cloud_event(link: Link) -> bytes:
    """A sealed entry as the JSON of its event."""
    number, recorded_us, *texts = link.values[:-DOCUMENTS]
    time = _EPOCH + int(recorded_us or 0) * _MICROSECOND
    documents = (msgspec.Raw(each or _ABSENT) for each in link.values[-DOCUMENTS:])
    said: list[Any] = [int(number or 0), time, *texts, *documents]
    said += [link.sequence, link.digest.hex()]
    entry = Entry(*said)
    event = CloudEvent(
        specversion="1.0",
        id=f"{entry.sequence}:{entry.digest}",
        source=SOURCE,
        type=TYPE,
        subject=f"{entry.resource}/{entry.resource_id}",
        time=time,
        datacontenttype="application/json",
        data=entry,
    )
    return msgspec.json.encode(event)


def link_of(message: bytes) -> Link:
    """The sealed entry of which an event was made; msgspec.MsgspecError when it is none of ours."""
    entry = msgspec.json.decode(message, type=CloudEvent).data
    *said, sequence, digest = msgspec.structs.astuple(entry)
    number, time, *texts = said[:-DOCUMENTS]
    written = (bytes(each).decode() for each in said[-DOCUMENTS:])
    documents = (None if each == _ABSENT else each for each in written)
    values = (str(number), str((time - _EPOCH) // _MICROSECOND), *texts, *documents)
    return Link(sequence, values, bytes.fromhex(digest))
