"""Ticks: idle partitions get one an interval, busy ones none, foreign ones a probe now and then."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from functions.operators.tick import PATIENCE_TICKS, PROBE_INTERVALS, TickPacer

INTERVAL_S = 1.0
seconds = st.floats(0.001, 3.0)
jitters = st.floats(0.0, 1.0)


class World:
    """Instances and a clock; a tick reaches the partition's owner after `way_s`."""

    def __init__(self, partitions: int, jitters: list[float], way_s: float = 0.01) -> None:
        self.now_s = 100.0
        self.owner = dict.fromkeys(range(partitions), 0)
        self.sent: list[tuple[float, int, int]] = []
        self.came: list[tuple[float, int]] = []
        self._way_s = way_s
        self._under_way: list[tuple[float, int]] = []
        self.pacers = [TickPacer(partitions, INTERVAL_S, j, self.now_s) for j in jitters]

    def run(self, for_s: float, alive: set[int], early: dict[int, float] | None = None) -> None:
        end = self.now_s + for_s
        while self.now_s < end:
            waits = [end - self.now_s]
            for number in alive:
                due = early or {}
                for partition in self.pacers[number].take_due(self.now_s, due, ()):
                    self.sent.append((self.now_s, number, partition))
                    self._under_way.append((self.now_s + self._way_s, partition))
                waits.append(self.pacers[number].due_in_s(self.now_s, due))
            waits += [at_s - self.now_s for at_s, _ in self._under_way]
            self.now_s += max(min(waits), 1e-6)
            for at_s, partition in list(self._under_way):
                if at_s <= self.now_s:
                    self._under_way.remove((at_s, partition))
                    self.came.append((self.now_s, partition))
                    if self.owner[partition] in alive:
                        self.pacers[self.owner[partition]].received(partition, self.now_s)


@given(st.integers(1, 4), st.lists(jitters, min_size=1, max_size=3))
def test_every_partition_of_an_idle_system_gets_its_ticks(
    partitions: int, jitters: list[float]
) -> None:
    world = World(partitions, jitters)
    world.run(10 * INTERVAL_S, set(range(len(jitters))))
    for partition in range(partitions):
        came = [at_s for at_s, p in world.came if p == partition]
        steps = [later - earlier for earlier, later in itertools.pairwise(came)]
        assert len(came) >= 8
        assert max(steps) <= INTERVAL_S + 0.1


@given(jitters, jitters)
def test_who_lost_a_partition_stops_ticking_it_and_the_new_owner_takes_it_up(
    one: float, other: float
) -> None:
    world = World(1, [one, other])
    world.run(5 * INTERVAL_S, {0, 1})
    world.owner[0] = 1
    moved_s = world.now_s
    world.run((2 * PROBE_INTERVALS + 2 * PATIENCE_TICKS) * INTERVAL_S, {0, 1})
    late = [
        at_s
        for at_s, number, _ in world.sent
        if number == 0 and at_s > moved_s + (PATIENCE_TICKS + 2) * INTERVAL_S
    ]
    steps = [later - earlier for earlier, later in itertools.pairwise(late)]
    assert all(step >= PROBE_INTERVALS * INTERVAL_S - 0.001 for step in steps)
    owners = [at_s for at_s, number, _ in world.sent if number == 1 and at_s > moved_s]
    assert len(owners) > PROBE_INTERVALS


@given(jitters, jitters)
def test_who_succeeds_a_dead_owner_finds_out_by_a_probe(one: float, other: float) -> None:
    world = World(1, [one, other])
    world.run(5 * INTERVAL_S, {0, 1})
    world.owner[0] = 1
    died_s = world.now_s
    world.run((2 * PROBE_INTERVALS + 5) * INTERVAL_S, {1})
    came = [at_s for at_s, _ in world.came if at_s > died_s]
    assert came
    assert came[0] - died_s <= 2 * PROBE_INTERVALS * INTERVAL_S + 0.1
    assert world.now_s - came[-1] <= INTERVAL_S + 0.1


@given(st.lists(seconds, max_size=30))
def test_a_partition_in_which_events_flow_gets_no_tick(steps: list[float]) -> None:
    pacer = TickPacer(1, INTERVAL_S, 0.0, 0.0)
    now_s = 0.0
    pacer.received(0, now_s)
    for step in steps:
        idle = step >= INTERVAL_S
        now_s += step
        assert pacer.take_due(now_s, {}, ()) == ([0] if idle else [])
        pacer.received(0, now_s)


def test_a_busy_partition_gets_no_tick_until_it_is_done() -> None:
    pacer = TickPacer(2, INTERVAL_S, 0.0, 0.0)
    for partition in range(2):
        pacer.received(partition, 0.0)
    assert pacer.take_due(1.0, {}, {0}) == [1]
    assert pacer.take_due(1.1, {}, ()) == []
    assert pacer.take_due(2.0, {}, ()) == [0, 1]


def test_what_is_due_is_ticked_early_but_not_again_while_the_tick_is_under_way() -> None:
    pacer = TickPacer(1, INTERVAL_S, 0.0, 0.0)
    pacer.received(0, 0.0)
    assert pacer.take_due(0.1, {0: 0.2}, {0}) == []
    assert pacer.due_in_s(0.1, {0: 0.2}) == 0.2
    assert pacer.take_due(0.3, {0: 0.0}, {0}) == [0]
    assert pacer.take_due(0.4, {0: -0.1}, {0}) == []
    assert pacer.due_in_s(0.4, {0: -0.1}) > 0.5
    pacer.received(0, 0.5)
    assert pacer.take_due(0.5, {0: 0.0}, {0}) == [0]


def test_early_ticks_keep_a_distance_whatever_arrives_in_between() -> None:
    pacer = TickPacer(1, INTERVAL_S, 0.0, 0.0)
    sent = 0
    for n in range(100):
        now_s = n / 100
        pacer.received(0, now_s)
        sent += len(pacer.take_due(now_s, {0: 0.0}, {0}))
    assert 15 <= sent <= 21


def test_what_comes_from_a_partition_unknown_to_the_configuration_is_ignored() -> None:
    pacer = TickPacer(1, INTERVAL_S, 0.0, 0.0)
    pacer.received(7, 0.0)
    assert pacer.take_due(0.0, {}, ()) == [0]
