"""Filters: SQL conditions over the columns of events, compiled to columnar kernels.

    compile_filter("instrument IN ('AAPL', 'MSFT') AND price > 187.25").mask(batch)

What a filter means follows SQL: three-valued logic, a row is chosen where the condition is TRUE. A
column that a kind of event lacks is NULL there; `kind` names the kind. Prices and sizes are written
in units and compared exactly; `round(x, n)` rounds half-even. `/`, and what involves `quality`, is
computed in doubles; division by zero is NULL, and so is NaN. LIKE is case-sensitive; ILIKE compares
what Python's `str.lower` gives. Texts are ordered by code point. Times are
`TIMESTAMP '2026-01-31T14:30:00.123456789Z'`, UTC without a zone.
`local_time(ts_event, 'America/New_York')` is the time of day there, compared with `TIME '09:30'`;
`local_weekday(…)` is 1 for Monday to 7 for Sunday.

`instrument IN SET 'sp500'` names a set that is kept outside: `Filter.with_sets` gives the filter
with the instruments that the set holds.

A filter never fails while events flow: what could is refused, with its position, when it is made.
"""

from marketdata.filters.errors import (
    FilterError,
    FilterNeverTrue,
    FilterSyntaxError,
    FilterTooComplex,
    FilterTypeError,
    UnknownColumn,
    UnknownSet,
)
from marketdata.filters.filter import Filter, compile_filter

__all__ = [
    "Filter",
    "FilterError",
    "FilterNeverTrue",
    "FilterSyntaxError",
    "FilterTooComplex",
    "FilterTypeError",
    "UnknownColumn",
    "UnknownSet",
    "compile_filter",
]
