"""A new epoch begins exactly where sequences cannot be continued, and always higher."""

from hypothesis import given
from hypothesis import strategies as st

from functions.operators.epoch import LOST, NewEpoch, new_epoch

numbers = st.integers(1, 50)


@given(numbers, st.booleans(), numbers, numbers, st.none() | numbers)
def test_sequences_go_on_only_with_the_whole_log_of_this_layout_at_the_floor(
    epoch: int, lost: bool, floor: int, partitions: int, recovered: int | None
) -> None:
    found = new_epoch(
        epoch,
        lost=lost,
        floor=floor,
        floor_reason="raised",
        partitions=partitions,
        recovered_partitions=recovered,
    )
    moved = recovered is not None and recovered != partitions
    if found is None:
        assert not lost
        assert not moved
        assert epoch >= floor
    else:
        assert lost or moved or epoch < floor
        assert found.epoch > epoch
        assert found.epoch >= floor
        assert found.reason


def test_the_reason_names_the_cause() -> None:
    options = {"floor": 1, "floor_reason": "", "partitions": 8}
    assert new_epoch(3, lost=True, recovered_partitions=8, **options) == NewEpoch(4, LOST)
    moved = new_epoch(3, lost=False, recovered_partitions=4, **options)
    assert moved is not None
    assert "from 4 to 8" in moved.reason
