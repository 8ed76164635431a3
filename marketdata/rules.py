"""Validation rules: conditions that the events of a view should meet, and what becomes of others.

An event breaks a rule where the condition is FALSE. Where it is NULL nothing is known against the
event, as with CHECK constraints of SQL: a rule about prices says nothing of events without one.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Meta

from marketdata.arrays import array_of
from marketdata.filters import FilterError, FilterNeverTrue, FilterTypeError, compile_filter
from marketdata.filters.columns import FrameColumns
from marketdata.filters.evaluate import holds
from marketdata.filters.filter import compile_tree
from marketdata.filters.tree import Expression, Not, References

MAX_RULES: Final = 16
MAX_CHARACTERS: Final = 4_000
"""Longest text of a condition."""

FAILED_RULES: Final = "failed_rules"
"""Column of the names of the rules of severity `mark` that an event broke: sorted, with commas."""

Severity = Literal["drop", "mark", "dead-letter"]
Rows = npt.NDArray[np.int64]

RuleName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$(?!\n)")]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What should hold of every event, and what becomes of one that breaks it.

    Attributes:
        severity: `drop`: the view does not get the event; `dead-letter`: nor that, and it is kept
            with the rule's name; `mark`: the view gets it with the rule's name beside it.
    """

    condition: Annotated[
        str,
        Meta(
            max_length=MAX_CHARACTERS,
            pattern=r"^[^\x00]*$",
            description="SQL condition over an event's columns, as in filters.",
            examples=["bid_price <= ask_price"],
        ),
    ]
    severity: Severity


class Checked(NamedTuple):
    """What the rules say of some events.

    Attributes:
        rows: ascending numbers of the rows that the view gets; None for all.
        broken: rule -> ascending numbers of the rows that broke it; rules that none broke are
            absent.
        marks: of the rows that the view gets the names of the rules of severity `mark` that they
            broke, NULL for none; None without such rules.
    """

    rows: Rows | None
    broken: Mapping[str, Rows]
    marks: pa.StringArray | None


UNCHECKED: Final = Checked(None, {}, None)
"""Without rules the view gets every event."""


@lru_cache(maxsize=1024)
def compile_rule(condition: str, references: References = ()) -> Expression:
    """The normal tree of a condition; the SQL of the tree compiles to the same tree.

    Args:
        condition: over the columns of events, and of `references`.
        references: columns that come from reference tables: name and type.

    Raises:
        FilterError: it is refused, as in filters; it names an instrument set; or no event can break
            it. With `position`, `line`, `column` and `hint`.
    """
    found = compile_filter(condition, references)
    try:
        found.check_cost()
        if found.sets:
            raise FilterTypeError(
                "IN SET stands in filters only", hint="list the instruments: IN ('AAPL', 'MSFT')"
            )
        try:
            compile_tree(Not(found.tree))
        except FilterNeverTrue:
            raise FilterNeverTrue(
                "no event can break it", hint="say what must hold, such as price > 0"
            ) from None
    except FilterError as error:
        error.locate(condition, 0)
        raise
    return found.tree


def check_events(
    rules: Mapping[str, Rule],
    conditions: Mapping[str, Expression],
    batch: pa.RecordBatch,
    found: Mapping[str, npt.NDArray[np.bool_]] | None = None,
) -> Checked:
    """What the rules say of events.

    Args:
        rules: name -> rule.
        conditions: name -> what `compile_rule` gives for it.
        batch: sequenced events of one kind, or mixed.
        found: rule -> which events break it, of rules that have no condition.
    """
    events = FrameColumns(batch, batch.schema.metadata[b"kind"].decode())
    out = np.zeros(batch.num_rows, dtype=np.bool_)
    broken: dict[str, Rows] = {}
    marking: dict[str, npt.NDArray[np.bool_]] = {}
    for name, rule in sorted(rules.items()):
        fails = (
            found[name] if found and name in found else holds(conditions[name], events, want=False)
        )
        if rule.severity == "mark":
            marking[name] = fails
        else:
            out |= fails
        if fails.any():
            broken[name] = np.flatnonzero(fails)
    rows = np.flatnonzero(~out) if out.any() else None
    if not marking:
        return Checked(rows, broken, None)
    kept = {name: fails if rows is None else fails[rows] for name, fails in marking.items()}
    return Checked(rows, broken, _marks(kept))


def _marks(broken: Mapping[str, npt.NDArray[np.bool_]]) -> pa.StringArray:
    """The names of what is broken: worked out once for each combination that occurs."""
    names = list(broken)
    bits = sum((mask.astype(np.int64) << n for n, mask in enumerate(broken.values())), start=_ZERO)
    combinations, codes = np.unique(bits, return_inverse=True)
    texts = [
        ",".join(name for n, name in enumerate(names) if bits >> n & 1) or None
        for bits in combinations.tolist()
    ]
    places = array_of(codes.astype(np.int64).ravel(), pa.int64())
    return pc.take(pa.array(texts, pa.utf8()), places, boundscheck=False)


_ZERO: Final[npt.NDArray[Any]] = np.zeros((), dtype=np.int64)
