"""The roles that a token may carry, and the subjects that go with them."""

from __future__ import annotations

import re
from enum import StrEnum

_CONSUMER = re.compile(r"c[0-9a-f]{16}")
_NAMED = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")
FUNCTIONS_SUBJECT = "functions"
BROKER_SUPERUSERS = ("broker", "platform")
"""Subjects that may do everything at the broker: its own client and worker, the control plane."""


class Role(StrEnum):
    """What a caller is; `control_plane.security.permissions` says what it may do."""

    PLATFORM = "platform"
    PUBLISHER = "publisher"
    CONSUMER = "consumer"
    READ_ONLY = "read-only"
    FUNCTIONS = "functions"
    """The functions inside the broker: nothing of the API is for them."""


def fits(role: Role, subject: str) -> bool:
    """Whether a subject may have a role.

    A consumer is its id. All ids have one length, so that none is the beginning of another, and
    nobody else may look like one: the broker grants by subject.
    """
    if role is Role.CONSUMER:
        return _CONSUMER.fullmatch(subject) is not None
    if role is Role.FUNCTIONS:
        return subject == FUNCTIONS_SUBJECT
    return (
        _NAMED.fullmatch(subject) is not None
        and _CONSUMER.fullmatch(subject) is None
        and subject != FUNCTIONS_SUBJECT
        and (role is Role.PLATFORM or subject not in BROKER_SUPERUSERS)
    )
