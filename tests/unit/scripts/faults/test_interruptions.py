"""Interruptions are dealt by their seed."""

from scripts.faults.interruptions import DECK, Interruption, schedule


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
