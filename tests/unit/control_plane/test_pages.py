"""Cursors come back as they were given out, entity tags guard against lost updates."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import InvalidRequestError, PreconditionFailedError
from control_plane.pages import check_match, decode_cursor, encode_cursor, page_of


@given(
    st.datetimes(timezones=st.just(UTC)),
    st.text(alphabet="0123456789abcdef", min_size=1, max_size=16),
)
def test_a_cursor_comes_back_as_it_was(moment: datetime, key: str) -> None:
    assert decode_cursor(encode_cursor(moment, key)) == (moment, key)


@given(st.text(max_size=100))
def test_any_other_cursor_is_refused_or_understood_but_never_breaks(text: str) -> None:
    with suppress(InvalidRequestError):
        decode_cursor(text)


def test_a_refused_cursor_is_named() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        decode_cursor("no cursor")
    assert [problem.pointer for problem in refused.value.problems] == ["query:cursor"]


def test_only_a_full_page_that_is_not_the_last_has_a_cursor() -> None:
    rows = [(datetime(2026, 1, day, tzinfo=UTC), str(day)) for day in (1, 2, 3)]
    page = page_of([1, 2, 3], 2, rows)
    assert page.items == [1, 2]
    assert page.next_cursor == encode_cursor(*rows[1])
    assert page_of([1, 2, 3], 3, rows).next_cursor is None


@pytest.mark.parametrize("header", [None, "*", '"3"', '"1", "3"'])
def test_a_matching_tag_lets_the_change_pass(header: str | None) -> None:
    check_match(header, 3)


@pytest.mark.parametrize("header", ['"2"', "3", ""])
def test_another_tag_refuses_the_change(header: str) -> None:
    with pytest.raises(PreconditionFailedError, match='"3"'):
        check_match(header, 3)
