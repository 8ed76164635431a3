"""LIKE patterns: checked, brought to a normal form, turned into regular expressions.

A pattern is a sequence of parts: a character, ANY_RUN (`%`) or ANY_ONE (`_`). Without an ESCAPE
clause no character escapes another, as in the SQL standard.
"""

import re
from typing import Final

from marketdata.filters.errors import FilterSyntaxError

ANY_RUN: Final = "%%"
ANY_ONE: Final = "__"
_NORMAL_ESCAPE: Final = "\\"


def parts_of(pattern: str, escape: str) -> list[str]:
    """Single characters to be found as they are, `ANY_RUN` and `ANY_ONE`."""
    parts: list[str] = []
    characters = iter(pattern)
    for character in characters:
        if character == escape:
            parts.append(next(characters))
        elif character == "%":
            if parts[-1:] != [ANY_RUN]:
                parts.append(ANY_RUN)
        else:
            parts.append(ANY_ONE if character == "_" else character)
    return parts


def check_pattern(pattern: str, escape: str) -> None:
    """Refuse a pattern whose escape character escapes nothing.

    Raises:
        FilterSyntaxError: without a position.
    """
    if len(escape) > 1:
        raise FilterSyntaxError("ESCAPE needs one character", hint="write ESCAPE '!'")
    characters = iter(pattern)
    for character in characters:
        if character == escape and next(characters, "") not in ("%", "_", escape):
            raise FilterSyntaxError(
                f"{escape!r} must stand before %, _ or {escape!r}", hint="double it to mean itself"
            )


def normal(pattern: str, escape: str) -> tuple[str, str]:
    """The same pattern in its one form, and the escape that it needs ("" for none)."""
    parts = parts_of(pattern, escape)
    if not {"%", "_"} & set(parts):
        return "".join("%" if p == ANY_RUN else "_" if p == ANY_ONE else p for p in parts), ""
    special = {"%", "_", _NORMAL_ESCAPE}
    written = (
        "%" if p == ANY_RUN else "_" if p == ANY_ONE else _NORMAL_ESCAPE + p if p in special else p
        for p in parts
    )
    return "".join(written), _NORMAL_ESCAPE


def fixed_text(pattern: str, escape: str) -> str | None:
    """The only text that matches, if the pattern has no wildcard."""
    parts = parts_of(pattern, escape)
    return None if {ANY_RUN, ANY_ONE} & set(parts) else "".join(parts)


def regex(pattern: str, escape: str) -> str:
    """An anchored RE2 and Python regular expression for the whole text."""
    body = "".join(
        ".*" if p == ANY_RUN else "." if p == ANY_ONE else re.escape(p)
        for p in parts_of(pattern, escape)
    )
    return rf"(?s)\A{body}\z"
