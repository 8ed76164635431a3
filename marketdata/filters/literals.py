"""Exact literals: decimal numbers and points in time with nanoseconds."""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, Inexact, InvalidOperation, Overflow
from typing import Final

from marketdata.filters.errors import FilterSyntaxError, FilterTooComplex
from marketdata.filters.tree import Number, Time, TimeOfDay

MAX_DIGITS: Final = 60
"""Most digits of a number, before and behind the point together."""

EXACT: Final = Context(
    prec=400, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact, InvalidOperation, Overflow]
)
"""Decimal arithmetic that raises rather than rounds."""

_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?"
    r"\s*(Z|z|[+-]\d\d:?\d\d)?\Z"
)
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:\.(\d{1,9}))?)?\Z")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INT64: Final = range(-(2**63) + 1, 2**63)


def number(value: Decimal) -> Number:
    """The literal of a decimal, in its one plain notation.

    Raises:
        FilterTooComplex: it has more than `MAX_DIGITS` digits.
    """
    _, digits, exponent = value.as_tuple()
    is_long = not isinstance(exponent, int) or (
        value != 0 and max(len(digits) + max(exponent, 0), -exponent) > MAX_DIGITS
    )
    if is_long:
        raise too_long()
    if value == 0:
        return Number("0")
    plain = f"{value:f}"
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return Number(plain)


def too_long() -> FilterTooComplex:
    """The refusal of a number that has more than `MAX_DIGITS` digits."""
    return FilterTooComplex(f"a number has more than {MAX_DIGITS} digits")


def time(text: str) -> Time:
    """The point in time that an ISO 8601 text names; UTC unless it has a zone.

    Raises:
        FilterSyntaxError: it is none, or outside 1677-09-21…2262-04-11.
    """
    found = _TIME.match(text.strip())
    if not found:
        raise FilterSyntaxError(
            f"{text!r} is no time", hint="write TIMESTAMP '2026-01-31T14:30:00.123456789Z'"
        )
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        whole = datetime(
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            tzinfo=_zone(zone),
        )
    except ValueError as error:
        raise FilterSyntaxError(f"{text!r} is no time: {error}") from error
    seconds = (whole - _EPOCH) // timedelta(seconds=1)
    ns = seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
    if ns not in _INT64:
        raise FilterSyntaxError(
            f"{text!r} is out of range", hint="times lie in 1677-09-22…2262-04-11"
        )
    return Time(ns)


def time_of_day(text: str) -> TimeOfDay:
    """The time on the clock that an ISO 8601 text names.

    Raises:
        FilterSyntaxError: it is none.
    """
    found = _CLOCK.match(text.strip())
    if not found:
        raise FilterSyntaxError(
            f"{text!r} is no time of day", hint="write TIME '09:30' or TIME '23:59:59.999999999'"
        )
    hour, minute, second, fraction = found.groups()
    seconds = 3600 * int(hour) + 60 * int(minute) + int(second or 0)
    return TimeOfDay(seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0")))


def _zone(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return UTC
    minutes = int(text[1:3]) * 60 + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))
