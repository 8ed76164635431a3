"""Silence is told once for each time that it lasts too long."""

from marketdata.liveness import Liveness, Silence

SECOND_NS = 1_000_000_000


def told(liveness: Liveness, second: int) -> list[Silence]:
    return liveness.silences(now_ns=second * SECOND_NS)


def listening(*, by_partition: bool = True, timeout_s: int = 10) -> Liveness:
    return Liveness(timeout_s * SECOND_NS, by_partition=by_partition, now_ns=0)


def test_a_topic_that_never_speaks_is_silent_as_a_whole() -> None:
    liveness = listening()
    assert told(liveness, 9) == []
    assert told(liveness, 10) == [Silence(None, 10.0)]
    assert told(liveness, 11) == []
    assert liveness.idle_ns(now_ns=11 * SECOND_NS) == 11 * SECOND_NS


def test_each_partition_must_go_on() -> None:
    liveness = listening()
    liveness.heard(0, now_ns=0)
    liveness.heard(1, now_ns=0)
    for second in range(1, 12):
        liveness.heard(0, now_ns=second * SECOND_NS)
    assert told(liveness, 11) == [Silence(1, 11.0)]
    liveness.heard(1, now_ns=12 * SECOND_NS)
    assert told(liveness, 12) == []
    assert told(liveness, 23) == [Silence(0, 12.0), Silence(1, 11.0)]


def test_in_a_group_any_partition_will_do() -> None:
    liveness = listening(by_partition=False)
    liveness.heard(0, now_ns=0)
    liveness.heard(1, now_ns=5 * SECOND_NS)
    assert told(liveness, 12) == []
    assert told(liveness, 15) == [Silence(None, 10.0)]
    liveness.heard(2, now_ns=16 * SECOND_NS)
    assert told(liveness, 26) == [Silence(None, 10.0)]


def test_while_nobody_listens_nothing_is_silent() -> None:
    liveness = listening()
    liveness.heard(0, now_ns=0)
    liveness.absent(3 * SECOND_NS)  # short: the wait of a message that was there is no silence
    liveness.absent(60 * SECOND_NS)
    assert told(liveness, 69) == []
    assert told(liveness, 70) == [Silence(0, 10.0)]


def test_without_a_bound_nothing_is_told() -> None:
    liveness = Liveness(None, by_partition=True, now_ns=0)
    liveness.absent(SECOND_NS)
    assert told(liveness, 10**6) == []
