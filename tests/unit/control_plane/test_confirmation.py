"""What a workflow has confirmed is what all of its subscriptions have acknowledged, never more."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from control_plane.domains.subscriptions.confirmation import MOST_STAGES, Confirmation
from control_plane.pulsar_values import CursorPlace, StoredEntries
from marketdata.confirmed import Place

TOPICS = ("one", "two", "three")


class Topic:
    """A partition with its ledgers, as the broker tells of it."""

    def __init__(self, first_ledger: int) -> None:
        self.counts = {first_ledger: 0}
        self.entries: list[Place] = []
        self.of_log: list[int] = []
        self.reloaded = False

    @property
    def ledger(self) -> int:
        return max(self.counts)

    def append(self, log: int) -> None:
        self.entries.append((self.ledger, self.counts[self.ledger]))
        self.counts[self.ledger] += 1
        self.of_log.append(log)

    def roll(self, *, reloaded: bool) -> None:
        """Begin another ledger; a topic that was loaded anew tells that it ends there."""
        if self.counts[self.ledger]:
            self.counts[self.ledger + 7] = 0
        self.reloaded = reloaded

    @property
    def newest(self) -> Place:
        if self.reloaded and not self.counts[self.ledger]:
            return self.ledger, -1
        return self.entries[-1] if self.entries else (self.ledger, -1)


class Reader:
    """A cursor: which entries of its topic it has acknowledged, from `begin` on."""

    def __init__(self, topic: Topic, begin: int) -> None:
        self.topic = topic
        self.acknowledged = set(range(begin))

    @property
    def waiting(self) -> list[int]:
        return [n for n in range(len(self.topic.entries)) if n not in self.acknowledged]

    def place(self, *, moved_on: bool) -> CursorPlace:
        topic = self.topic
        first = self.waiting[0] if self.waiting else len(topic.entries)
        before = topic.entries[first - 1] if first else (min(topic.counts), -1)
        last_of_ledger = before[1] + 1 >= topic.counts[before[0]]
        later = [ledger for ledger in topic.counts if ledger > before[0]]
        if moved_on and last_of_ledger and later:
            before = later[0], -1
        singly = tuple(
            ((ledger, entry - 1), (ledger, entry))
            for n, (ledger, entry) in enumerate(topic.entries)
            if n > first and n in self.acknowledged
        )
        stored = StoredEntries(tuple(sorted(topic.counts.items())), bool(topic.entries))
        return CursorPlace(before, stored, singly, newest=topic.newest)


class Workflow(RuleBasedStateMachine):
    """A log whose messages go to some topics, subscriptions that read these, and looks at them."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Topic(1)
        self.sent = 0
        self.done = 0
        self.topics = {name: Topic(10) for name in TOPICS}
        self.readers: dict[tuple[str, str], Reader] = {}
        self.confirmation = Confirmation()
        self.passed: Place | None = None
        self.now = 0
        self.released = 0

    @rule(rolled=st.booleans())
    def sequence(self, *, rolled: bool) -> None:
        if rolled:
            self.log.roll(reloaded=False)
        self.log.append(len(self.log.entries))

    @precondition(lambda self: self.sent < len(self.log.entries))
    @rule(to=st.sets(st.sampled_from(TOPICS)))
    def distribute(self, to: set[str]) -> None:
        for name in to:
            self.topics[name].append(self.sent)
        self.sent += 1

    @precondition(lambda self: self.done < self.sent)
    @rule(data=st.data())
    def acknowledge_log(self, data: st.DataObject) -> None:
        self.done = data.draw(st.integers(self.done + 1, self.sent))

    @rule(name=st.sampled_from(TOPICS), reloaded=st.booleans())
    def roll(self, name: str, *, reloaded: bool) -> None:
        self.topics[name].roll(reloaded=reloaded)

    @rule(name=st.sampled_from(TOPICS), who=st.sampled_from("ab"), earliest=st.booleans())
    def join(self, name: str, who: str, *, earliest: bool) -> None:
        topic = self.topics[name]
        begin = 0 if earliest else len(topic.entries)
        self.readers.setdefault((name, who), Reader(topic, begin))

    @precondition(lambda self: self.readers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        del self.readers[data.draw(st.sampled_from(sorted(self.readers)))]

    @precondition(lambda self: any(reader.waiting for reader in self.readers.values()))
    @rule(data=st.data(), whole=st.booleans())
    def acknowledge(self, data: st.DataObject, *, whole: bool) -> None:
        able = sorted(key for key, reader in self.readers.items() if reader.waiting)
        reader = self.readers[data.draw(st.sampled_from(able))]
        some = reader.waiting if whole else [data.draw(st.sampled_from(reader.waiting))]
        reader.acknowledged.update(some)

    @rule()
    def begin_to_look(self) -> None:
        self.passed = self.log.entries[self.done - 1] if self.done else (1, -1)

    @precondition(lambda self: self.passed is not None and self.readers)
    @rule(moved_on=st.booleans(), lost=st.booleans())
    def look(self, *, moved_on: bool, lost: bool) -> None:
        assert self.passed is not None
        self.now += 1
        cursors = {key: each.place(moved_on=moved_on) for key, each in self.readers.items()}
        missing = {min(cursors): None} if lost else {}
        self.confirmation.look(self.passed, cursors | missing, self.now)
        self.passed = None
        self._check()

    def _check(self) -> None:
        """All who belong to the workflow at this moment have acknowledged what is new."""
        place = self.confirmation.place
        if place is None:
            return
        confirmed = sum(entry <= place for entry in self.log.entries)
        assert confirmed <= self.done
        if confirmed > self.released:
            for reader in self.readers.values():
                waiting = {reader.topic.of_log[n] for n in reader.waiting}
                assert not waiting & set(range(confirmed))
        assert confirmed >= self.released
        self.released = confirmed

    @invariant()
    def it_keeps_a_bounded_number(self) -> None:
        assert len(self.confirmation._stages) <= MOST_STAGES

    def teardown(self) -> None:
        """Whoever reads all there is lets all through."""
        if self.readers:
            self.acknowledge_all()
            self.begin_to_look()
            assert self.passed is not None
            places = {key: each.place(moved_on=False) for key, each in self.readers.items()}
            assert self.confirmation.look(self.passed, places, self.now + 1) == set()
            assert self.confirmation.place is not None
            assert self.confirmation.place >= self.passed

    def acknowledge_all(self) -> None:
        for reader in self.readers.values():
            reader.acknowledged.update(range(len(reader.topic.entries)))


TestWorkflow = Workflow.TestCase
TestWorkflow.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_who_is_always_behind_confirms_all_the_same() -> None:
    """Also further behind than there are stages, and with nothing lost but how finely."""
    topic, confirmation = Topic(10), Confirmation()
    reader, lag, found = Reader(topic, 0), 5 * MOST_STAGES, []
    for number in range(20 * MOST_STAGES):
        topic.append(number)
        reader.acknowledged.add(number - lag)
        cursors = {("one", "a"): reader.place(moved_on=False)}
        waiting = confirmation.look((1, number), cursors, number + 1)
        assert waiting == {("one", "a")}
        found.append(-1 if confirmation.place is None else confirmation.place[1])
    behind = [number - place for number, place in enumerate(found)][2 * lag :]
    assert lag <= min(behind)
    assert max(behind) <= 2 * lag
    assert confirmation.as_of_ns == found[-1] + 1


def test_what_goes_to_nobody_is_confirmed_at_once() -> None:
    confirmation = Confirmation()
    idle = Reader(Topic(10), 0).place(moved_on=False)
    assert confirmation.look((1, 41), {("one", "a"): idle}, 5) == set()
    assert (confirmation.place, confirmation.as_of_ns) == ((1, 41), 5)


def test_without_anybody_nothing_is_confirmed_unless_nobody_waits() -> None:
    confirmation = Confirmation()
    confirmation.wait()
    assert confirmation.place is None
    confirmation.pass_all((1, 4), 5)
    confirmation.pass_all((1, 2), 6)
    assert (confirmation.place, confirmation.as_of_ns) == ((1, 4), 6)
