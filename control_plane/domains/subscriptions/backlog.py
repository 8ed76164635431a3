"""How large a backlog is beside what its subscription wants, and how much of it is too much.

Pure. The broker counts messages, which are frames of events; what a client has prefetched is a part
of the backlog until it is acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from control_plane.domains.subscriptions.schemas import OnBacklog
from control_plane.errors import FieldProblem, InvalidRequestError
from control_plane.pulsar_values import CursorPlace, SubscriptionStats

Position = tuple[int, int]
"""Ledger and entry."""


def check(on_backlog: OnBacklog) -> None:
    """Refuse what cannot be carried out.

    Raises:
        InvalidRequestError: the policy does not fit the limits or the interval.
    """
    limits = [on_backlog.messages, on_backlog.bytes, on_backlog.seconds]
    if on_backlog.policy != "conflate" and on_backlog.every_ms is not None:
        hint = "leave every_ms out, or choose conflate"
        detail = f"{on_backlog.policy} has no interval"
        problem = FieldProblem("/on_backlog/every_ms", detail, hint=hint)
    elif on_backlog.policy == "conflate" and on_backlog.every_ms is None:
        hint = "give every_ms, as 1000 for a second"
        problem = FieldProblem("/on_backlog/every_ms", "conflate needs an interval", hint=hint)
    elif on_backlog.policy == "hold" and limits != [None] * 3:
        hint = "leave messages, bytes and seconds out, or choose another policy"
        problem = FieldProblem("/on_backlog", "hold has no limits of its own", hint=hint)
    elif on_backlog.policy != "hold" and limits == [None] * 3:
        hint = "give at least one of messages, bytes and seconds"
        problem = FieldProblem("/on_backlog", f"{on_backlog.policy} needs a limit", hint=hint)
    else:
        return
    raise InvalidRequestError(f"on_backlog: {problem.detail}.", [problem])


def reason(
    cursors: Mapping[int, SubscriptionStats], limit: OnBacklog, now_ms: int
) -> dict[str, int]:
    """How large a backlog is by those of its limits that it is beyond; empty within all of them.

    Args:
        cursors: the cursor in each partition of the topic.
        now_ms: milliseconds since the epoch, by a clock like the broker's.
    """
    since = [each.oldest_backlog_published_ms for each in cursors.values() if each.backlog_messages]
    oldest_ms = min((ms for ms in since if ms > 0), default=now_ms)
    sizes = {
        "messages": sum(each.backlog_messages for each in cursors.values()),
        "bytes": sum(each.backlog_bytes for each in cursors.values()),
        "seconds": (now_ms - oldest_ms) // 1000,
    }
    limits = {name: getattr(limit, name) for name in sizes}
    return {
        name: size
        for name, size in sizes.items()
        if limits[name] is not None and size > limits[name]
    }


def caught_up(cursors: Mapping[int, SubscriptionStats], limit: OnBacklog, now_ms: int) -> bool:
    """Whether a backlog is at most half as large as each of its limits allows.

    Args:
        cursors, now_ms: as of `reason`.
    """
    sizes = {name: getattr(limit, name) for name in ("messages", "bytes", "seconds")}
    half = {name: size // 2 for name, size in sizes.items() if size is not None}
    return not reason(cursors, msgspec.structs.replace(limit, **half), now_ms)


def to_drop(cursors: Mapping[int, SubscriptionStats], limit: OnBacklog) -> dict[int, int]:
    """How many messages of each partition are too many by number or, as they are large, by bytes.

    Every partition gives the same share of what it has: what is left is as old in all of them,
    where they are filled alike.
    """
    messages = sum(each.backlog_messages for each in cursors.values())
    size = sum(each.backlog_bytes for each in cursors.values())
    # Of `whole` parts `kept` may stay.
    kept, whole = 1, 1
    for most, there in ((limit.messages, messages), (limit.bytes, size)):
        if most is not None and there > most and most * whole < kept * there:
            kept, whole = most, there
    counts = {
        number: each.backlog_messages - each.backlog_messages * kept // whole
        for number, each in cursors.items()
    }
    return {number: count for number, count in counts.items() if count}


def entries_between(ledgers: Sequence[tuple[int, int]], after: Position, before: Position) -> int:
    """The number of entries between two positions, neither of them included.

    >>> entries_between([(7, 10), (9, 5)], (7, 3), (9, 2))
    8
    """
    count = 0
    for ledger, entries in ledgers:
        first = after[1] + 1 if ledger == after[0] else 0
        end = before[1] if ledger == before[0] else entries
        if after[0] <= ledger <= before[0]:
            count += max(0, end - first)
    return count


def waiting_before(place: CursorPlace, before: Position) -> int:
    """The number of entries before a position that wait in a partition.

    What is acknowledged singly does not, and a skip of the broker does not count it either.
    """
    ledgers = place.stored.ledgers
    count = entries_between(ledgers, place.acknowledged, before)
    for after, (ledger, entry) in place.singly:
        end = min((ledger, entry + 1), before)
        count -= entries_between(ledgers, max(after, place.acknowledged), end)
    return count
