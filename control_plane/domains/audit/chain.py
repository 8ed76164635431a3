"""The hash chain of the audit log: pure functions of entries.

The digest of an entry is SHA-256 over the digest of the one before it and over everything that the
entry says, its place in the chain included. Every value is written as its length in bytes, a colon
and its UTF-8 text, so that no two entries are written alike; what is absent is a hyphen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

GENESIS = bytes(32)
"""What stands before the first entry."""


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the place and the digest of its last entry."""

    sequence: int = 0
    digest: bytes = GENESIS


@dataclass(frozen=True, slots=True)
class Link:
    """A sealed entry: its place, what it says as texts in a fixed order, and its digest."""

    sequence: int
    values: tuple[str | None, ...]
    digest: bytes


@dataclass(frozen=True, slots=True)
class Break:
    """The first place at which a chain does not hold, and what is wrong there."""

    sequence: int
    reason: str


def seal(head: Head, values: Iterable[str | None]) -> Head:
    """The head after one more entry."""
    sequence = head.sequence + 1
    content = b"".join(map(_written, (str(sequence), *values)))
    return Head(sequence, hashlib.sha256(head.digest + content).digest())


def follow(head: Head, links: Iterable[Link]) -> tuple[Head, Break | None]:
    """Follow a chain from a head on; gives how far it holds, and where it breaks, if it does."""
    for link in links:
        expected = seal(head, link.values)
        if link.sequence != expected.sequence:
            return head, Break(expected.sequence, f"missing: the next entry is {link.sequence}")
        if link.digest != expected.digest:
            return head, Break(link.sequence, "changed: the digest is not that of what it says")
        head = expected
    return head, None


def _written(value: str | None) -> bytes:
    if value is None:
        return b"-"
    encoded = value.encode()
    return b"%d:%b" % (len(encoded), encoded)
