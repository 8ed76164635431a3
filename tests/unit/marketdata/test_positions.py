"""Positions keep log order in one number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import PositionOverflow
from marketdata.positions import BATCH_BITS, ENTRY_BITS, LEDGER_BITS, Position, place_before, unpack

positions = st.builds(
    Position,
    st.integers(0, (1 << LEDGER_BITS) - 1),
    st.integers(0, (1 << ENTRY_BITS) - 1),
    st.integers(0, (1 << BATCH_BITS) - 1),
)


@given(positions, positions)
def test_packed_positions_compare_like_positions(one: Position, other: Position) -> None:
    assert (one.pack() < other.pack()) == (one < other)


@given(positions)
def test_packing_loses_nothing_and_fits_a_signed_64_bit_number(position: Position) -> None:
    assert unpack(position.pack()) == position
    assert 0 <= position.pack() < 1 << 63


@given(positions, positions)
def test_the_place_before_a_position_lies_behind_every_earlier_one(
    position: Position, other: Position
) -> None:
    place = place_before(position.pack())
    assert place < position.pack()
    assert (other.pack() < place) == (other < position)
    assert unpack(place) == position


def test_a_message_outside_a_batch_counts_as_its_first() -> None:
    assert Position(1, 2, -1).pack() == Position(1, 2, 0).pack()


@pytest.mark.parametrize(
    "position",
    [Position(1 << LEDGER_BITS, 0), Position(0, 1 << ENTRY_BITS), Position(0, 0, 1 << BATCH_BITS)],
)
def test_a_position_that_does_not_fit_is_refused(position: Position) -> None:
    with pytest.raises(PositionOverflow, match="does not fit"):
        position.pack()
