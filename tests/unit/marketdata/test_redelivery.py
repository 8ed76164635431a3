"""A message that comes again is told from a new one."""

from marketdata.positions import Position
from marketdata.redelivery import Arrival, RedeliveryTracker

SECOND_NS = 1_000_000_000


def tracker() -> RedeliveryTracker:
    return RedeliveryTracker(window_ns=60 * SECOND_NS)


def test_rising_positions_are_new() -> None:
    seen = tracker()
    for position in (Position(3, 7), Position(3, 8), Position(5, 0), Position(5, 0, 1)):
        assert seen.arrive(0, position) is Arrival.NEW


def test_a_step_over_positions_is_told() -> None:
    seen = tracker()
    seen.arrive(0, Position(3, 7))
    assert seen.arrive(0, Position(3, 9)) is Arrival.SKIPPED
    assert seen.arrive(0, Position(4, 2)) is Arrival.SKIPPED


def test_what_was_acknowledged_is_told_from_what_is_still_open() -> None:
    seen = tracker()
    for entry in range(3):
        seen.arrive(0, Position(1, entry))
    seen.acknowledge(0, Position(1, 0), now_ns=0)
    assert seen.arrive(0, Position(1, 0)) is Arrival.ACKNOWLEDGED
    assert seen.arrive(0, Position(1, 1)) is Arrival.UNACKNOWLEDGED
    assert seen.arrive(0, Position(1, 2)) is Arrival.UNACKNOWLEDGED
    assert seen.arrive(0, Position(1, 3)) is Arrival.NEW


def test_partitions_are_apart() -> None:
    seen = tracker()
    seen.arrive(0, Position(1, 5))
    assert seen.arrive(1, Position(1, 5)) is Arrival.NEW


def test_a_cumulative_acknowledgement_covers_all_before() -> None:
    seen = tracker()
    for entry in range(4):
        seen.arrive(0, Position(1, entry))
    seen.acknowledge_up_to(0, Position(1, 2), now_ns=0)
    assert [seen.arrive(0, Position(1, entry)) for entry in range(4)] == [
        *[Arrival.ACKNOWLEDGED] * 3,
        Arrival.UNACKNOWLEDGED,
    ]


def test_a_way_back_further_than_the_window_is_a_rewind() -> None:
    seen = tracker()
    for entry in range(100):
        seen.arrive(0, Position(1, entry))
        seen.acknowledge(0, Position(1, entry), now_ns=entry * SECOND_NS)
    assert seen.arrive(0, Position(1, 10)) is Arrival.REWOUND
    assert seen.arrive(0, Position(1, 11)) is Arrival.NEW
    assert seen.arrive(0, Position(1, 99)) is Arrival.ACKNOWLEDGED


def test_an_entry_that_is_read_for_long_is_remembered_whole() -> None:
    tracker = RedeliveryTracker(window_ns=10)
    entry = [Position(1, 7, n) for n in range(3)]
    for n, position in enumerate(entry):
        tracker.arrive(0, position)
        tracker.acknowledge(0, position, now_ns=100 * n)
    # The broker knows of none of them before all are acknowledged.
    assert [tracker.arrive(0, position) for position in entry] == [Arrival.ACKNOWLEDGED] * 3


def test_forgetting_starts_anew() -> None:
    seen = tracker()
    for partition in (0, 1):
        seen.arrive(partition, Position(9, 9))
        seen.acknowledge(partition, Position(9, 9), now_ns=0)
    seen.forget(0)
    assert seen.arrive(0, Position(1, 1)) is Arrival.NEW
    assert seen.arrive(1, Position(9, 9)) is Arrival.ACKNOWLEDGED
    seen.forget()
    assert seen.arrive(1, Position(9, 9)) is Arrival.NEW


def test_what_was_read_again_is_known_when_it_is_delivered_after_all() -> None:
    seen = tracker()
    seen.arrive(0, Position(1, 1))
    seen.arrive(0, Position(1, 4))
    for entry in (2, 3):
        seen.hand_out(0, Position(1, entry))
    seen.acknowledge(0, Position(1, 2), now_ns=0)
    assert seen.arrive(0, Position(1, 2)) is Arrival.ACKNOWLEDGED
    assert seen.arrive(0, Position(1, 3)) is Arrival.UNACKNOWLEDGED
    assert seen.arrive(0, Position(1, 5)) is Arrival.NEW
