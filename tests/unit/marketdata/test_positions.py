"""Positions keep log order in one number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.errors import PositionOverflow
from marketdata.positions import (
    BATCH_BITS,
    ENTRY_BITS,
    LEDGER_BITS,
    NO_POSITION,
    Position,
    follows,
    place_before,
    unpack,
)

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


@given(positions, positions)
def test_a_position_follows_when_nothing_can_stand_between(one: Position, other: Position) -> None:
    next_of_batch = one._replace(batch_index=one.batch_index + 1)
    next_entry = one._replace(entry_id=one.entry_id + 1, batch_index=0)
    fitting = [
        each
        for each in (next_of_batch, next_entry)
        if each.batch_index < 1 << BATCH_BITS and each.entry_id < 1 << ENTRY_BITS
    ]
    for each in fitting:
        assert follows(each.pack(), one.pack())
    assert follows(other.pack(), one.pack()) == (other in fitting)
    assert not follows(one.pack(), NO_POSITION)


def test_a_message_outside_a_batch_counts_as_its_first() -> None:
    assert Position(1, 2, -1).pack() == Position(1, 2, 0).pack()


@pytest.mark.parametrize(
    "position",
    [Position(1 << LEDGER_BITS, 0), Position(0, 1 << ENTRY_BITS), Position(0, 0, 1 << BATCH_BITS)],
)
def test_a_position_that_does_not_fit_is_refused(position: Position) -> None:
    with pytest.raises(PositionOverflow, match="does not fit"):
        position.pack()
