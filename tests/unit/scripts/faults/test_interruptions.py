"""Interruptions are dealt by their seed."""

from itertools import islice

from scripts.faults.interruptions import DECK, Interruption, burst_sizes, schedule


def test_a_schedule_is_dealt_like_cards() -> None:
    assert sum(DECK.values()) == 100
    dealt = schedule(1, 200, secure=True)
    assert dealt == schedule(1, 200, secure=True)
    assert dealt != schedule(2, 200, secure=True)
    for hundred in (dealt[:100], dealt[100:]):
        assert {kind: hundred.count(kind) for kind in Interruption} == DECK


def test_there_are_no_grants_where_nobody_is_asked_who_they_are() -> None:
    left = set(Interruption) - set(schedule(1, 300, secure=False))
    assert left == {Interruption.TAKE_GRANT, Interruption.GIVE_GRANT}


def test_bursts_have_up_to_so_many() -> None:
    assert set(islice(burst_sizes(1, 5), 200)) == {1, 2, 3, 4, 5}
    assert set(islice(burst_sizes(1, 1), 20)) == {1}
    assert list(islice(burst_sizes(1, 5), 20)) == list(islice(burst_sizes(1, 5), 20))
