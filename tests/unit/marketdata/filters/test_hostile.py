"""What a filter can cost is bounded, where it is read and where it is evaluated.

Nothing here looks at a clock: without the bounds the slowest of these take minutes.
"""

from __future__ import annotations

import pytest

from marketdata.filters import FilterError, FilterTooComplex, compile_filter
from marketdata.filters import kinds as filter_kinds
from marketdata.filters.cost import MAX_COST, MAX_PATTERN, check_cost
from marketdata.filters.parse import MAX_ZONES
from marketdata.filters.tree import Expression
from marketdata.filters.zones import zone_names
from marketdata.schemas import KINDS

ZONES = sorted(zone_names())


def alternatives(count: int) -> str:
    """Each OR loses an alternative to the first term, which makes it a neighbour of the next."""
    ors = (f"(price < {i} OR size > {i} OR instrument = '{i}')" for i in range(1, count + 1))
    return "price > 1000 AND " + " AND ".join(ors)


def test_what_neighbours_exclude_is_looked_for_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weighed = 0

    def counted(parts: tuple[Expression, ...]) -> object:
        nonlocal weighed
        weighed += len(parts)
        return contradiction(parts)

    contradiction = filter_kinds.contradiction
    monkeypatch.setattr(filter_kinds, "contradiction", counted)
    compile_filter(alternatives(300))
    assert weighed < 2 * len(KINDS) * filter_kinds.MOST_WEIGHED


def test_what_is_within_the_bound_is_dropped() -> None:
    assert "price <" not in str(compile_filter(alternatives(4)).on_kind("trade"))


@pytest.mark.parametrize(
    "sql",
    [
        " OR ".join(f"instrument LIKE '%a%{i}%b%'" for i in range(200)),
        f"instrument LIKE '{'%a' * MAX_PATTERN}'",
        " OR ".join(f"lower(instrument) < '{i}'" for i in range(MAX_COST // 60 + 1)),
        f"coalesce({', '.join(['price'] * 1000)}) > 1",
        " OR ".join(
            f"local_time(ts_event, 'UTC') < TIME '{10 + i // 60}:{i % 50 + 10}'" for i in range(200)
        ),
    ],
    ids=["patterns", "long pattern", "folded", "coalesce", "clocks"],
)
def test_what_would_hold_up_all_views_is_refused(sql: str) -> None:
    found = compile_filter(sql)  # as one that was made before there was a bound
    with pytest.raises(FilterTooComplex):
        found.check_cost()


@pytest.mark.parametrize(
    "sql",
    [
        " OR ".join(f"instrument LIKE 'A{i}%'" for i in range(100)),
        " AND ".join(f"price <> {i}" for i in range(900)),
        f"instrument IN {tuple(map(str, range(10_000)))}",
        "local_time(ts_event, 'America/New_York') BETWEEN TIME '09:30' AND TIME '16:00'",
    ],
    ids=["prefixes", "terms", "instruments", "session"],
)
def test_what_is_usual_is_not(sql: str) -> None:
    check_cost(compile_filter(sql).tree)


def test_zones_are_counted_before_they_are_read() -> None:
    def asking(count: int) -> str:
        return " OR ".join(f"local_weekday(ts_event, '{name}') = 1" for name in ZONES[:count])

    compile_filter(asking(MAX_ZONES))
    with pytest.raises(FilterTooComplex, match="time zones") as refused:
        compile_filter(asking(len(ZONES)))
    assert refused.value.position is not None


@pytest.mark.parametrize("digits", [61, 401, 19_000])
@pytest.mark.parametrize("written", ["{}", "-{}", "1.{}", "{}.5"])
def test_a_number_of_any_length_is_refused_by_name(written: str, digits: int) -> None:
    with pytest.raises(FilterTooComplex, match="digits"):
        compile_filter(f"price > {written.format('9' * digits)}")


@pytest.mark.parametrize(
    "text",
    [
        *("(" * 9000, "NOT " * 5000, "- " * 9000, "a." * 9000, "[" * 9000, "/*" * 9000, "{" * 9000),
        *("f(" * 9000, "CASE " * 4000, "price IN (SELECT " * 1000, "\\" * 20_000, '"' * 19_999),
        *("price" + "::int" * 4000, "x -> " * 4000, "price" + "=price" * 3000, "\ud800", "\x00"),
    ],
)
def test_no_text_ends_in_anything_but_a_refusal(text: str) -> None:
    for sql in (text, f"price > 1 AND {text}", f"{text} price > 1"):
        with pytest.raises(FilterError):
            compile_filter(sql)
