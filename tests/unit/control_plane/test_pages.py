"""Entity tags guard against lost updates."""

from __future__ import annotations

import pytest

from control_plane.errors import PreconditionFailedError
from control_plane.pages import check_match


@pytest.mark.parametrize("header", [None, "*", '"3"', '"1", "3"'])
def test_a_matching_tag_lets_the_change_pass(header: str | None) -> None:
    check_match(header, 3)


@pytest.mark.parametrize("header", ['"2"', "3", ""])
def test_another_tag_refuses_the_change(header: str) -> None:
    with pytest.raises(PreconditionFailedError, match='"3"'):
        check_match(header, 3)
