"""What is said of events that broke a validation rule."""

from typing import Final

import pyarrow as pa

from marketdata.rules import Rule
from marketdata.transformations import Transformation

MOST_NAMED: Final = 5
"""So many events are named; the letter holds the frame, in which the condition finds them all."""

MOST_CONDITION_CHARACTERS: Final = 200


def keeps(transformation: Transformation) -> bool:
    """Whether events that break a rule of the transformation are to be kept as dead letters."""
    return any(rule.severity == "dead-letter" for rule in transformation.all_rules.values())


def reason(name: str, rule: Rule, events: pa.RecordBatch) -> str:
    """Why events are kept.

    Args:
        events: all events of a frame that broke the rule, at least one.
    """
    some = events.slice(0, MOST_NAMED)
    named = [
        f"{instrument} {sequence}"
        for instrument, sequence in zip(
            some.column("instrument").to_pylist(), some.column("sequence").to_pylist(), strict=True
        )
    ]
    if events.num_rows > len(named):
        named.append("…")
    condition = rule.condition[:MOST_CONDITION_CHARACTERS]
    return f"rule {name!r} ({condition}) broken by {events.num_rows} events: {', '.join(named)}"
