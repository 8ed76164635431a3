"""What was found: order of the sources, dead letters."""

from __future__ import annotations

from control_plane.cli.fields import KEY, Field, body, key
from control_plane.cli.resources.command import (
    INSTRUMENT,
    PARTITION,
    SINCE,
    SOURCE,
    Command,
    Group,
    sort_by,
)

_GAP = (
    "id",
    "state",
    "source",
    "instrument",
    "first",
    "last",
    "missing",
    "remaining",
    "opened_at",
    "closed_by",
)
FINDINGS = (
    "gap_opened",
    "gap_closed",
    "reversal",
    "repeat",
    "late_event",
    "source_reset",
    "epoch_changed",
)


ORDERING = Group(
    "ordering",
    "What the order of the sources shows.",
    (
        Command(
            "gaps",
            "listGaps",
            "GET",
            "/v1/ordering/gaps",
            "List gaps: events that are missing in a source's numbers, or were.",
            (
                Field("state", "Absent: both.", type=("open", "closed")),
                SOURCE,
                INSTRUMENT,
                PARTITION,
                SINCE,
                sort_by("opened_at"),
            ),
            columns=_GAP,
            paged=True,
        ),
        Command(
            "gap",
            "getGap",
            "GET",
            "/v1/ordering/gaps/{key}",
            "Describe a gap.",
            (key("key"),),
        ),
        Command(
            "resend",
            "requestResend",
            "POST",
            "/v1/ordering/gaps/{key}/resend",
            "Ask the source for what is missing.",
            (key("key"),),
        ),
        Command(
            "findings",
            "listFindings",
            "GET",
            "/v1/ordering/findings",
            "List everything that the sequencer found.",
            (
                Field("type", "Absent: all.", type=FINDINGS),
                SOURCE,
                INSTRUMENT,
                PARTITION,
                SINCE,
                sort_by("detected_at"),
            ),
            columns=(
                "id",
                "type",
                "source",
                "instrument",
                "first",
                "last",
                "events",
                "action",
                "detected_at",
            ),
            paged=True,
        ),
        Command(
            "instrument",
            "getInstrument",
            "GET",
            "/v1/ordering/instruments/{instrument}",
            "Where an instrument stands: sequence, epoch, sources, gaps.",
            (key("instrument"),),
        ),
    ),
)


DEAD_LETTERS = Group(
    "dead-letters",
    "What the functions could not process.",
    (
        Command(
            "list",
            "listDeadLetters",
            "GET",
            "/v1/dead-letters",
            "List dead letters.",
            (
                Field(
                    "function",
                    "Only of this one.",
                    type=("sequencer", "distributor", "conflator"),
                ),
                Field("code", "Only with this reason code."),
                PARTITION,
                SINCE,
            ),
            columns=("id", "state", "reason_code", "reason", "size_bytes", "stored_at"),
            paged=True,
        ),
        Command(
            "show",
            "getDeadLetter",
            "GET",
            "/v1/dead-letters/{key}",
            "Describe a dead letter.",
            (key("key"),),
        ),
        Command(
            "payload",
            "getDeadLetterPayload",
            "GET",
            "/v1/dead-letters/{key}/payload",
            "Write the bytes of a dead letter to standard output.",
            (key("key"),),
            raw=True,
        ),
        Command(
            "resend",
            "resendDeadLetter",
            "POST",
            "/v1/dead-letters/{key}/resend",
            "Send the frame of a dead letter again; once, however often this is called.",
            (key("key"), KEY),
        ),
        Command(
            "resend-all",
            "resendDeadLetters",
            "POST",
            "/v1/dead-letters:resend",
            "Send the frames of all letters of the sequencer that match, each once: an operation.",
            (
                body("code", "Only with this reason code."),
                body("partition", "Only of this partition.", type=int),
                body("since", "Stored from this time on, as 2026-01-31T09:30:00Z."),
                body("until", "Stored before this time; at the latest now."),
                KEY,
            ),
            confirm="What was not mended is refused again, as a new letter. Send them?",
        ),
    ),
)
