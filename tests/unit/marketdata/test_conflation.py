"""Conflation against a slow, obvious telling of it: events in lists, one after the other."""

import operator
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import marketdata.conflation
from marketdata.conflation import Entry, Pace, Window, pace_of
from marketdata.plans import Conflate, Delivery
from marketdata.skipped import Skipped


class Event(NamedTuple):
    instrument: str
    kind: str
    sequence: int
    place: int


FRAMES = st.lists(
    st.tuples(st.sampled_from(["trade", "quote"]), st.lists(st.sampled_from("ABCDE"), min_size=1)),
    min_size=1,
    max_size=8,
)
PACES = st.one_of(
    st.just(Pace(1_000, latest=True, most=None)),
    st.builds(Pace, st.just(1_000), st.booleans(), st.integers(1, 12)),
)


def log_of(frames: Sequence[tuple[str, Sequence[str]]]) -> list[list[Event]]:
    """Frames of numbered events; a frame's place is 10 times its number."""
    numbers: Counter[str] = Counter()
    log = []
    for place, (kind, names) in enumerate(frames, start=1):
        events = []
        for name in names:
            numbers[name] += 1
            events.append(Event(name, kind, numbers[name], 10 * place))
        log.append(events)
    return log


def batch_of(events: Sequence[Event]) -> pa.RecordBatch:
    """As much of a batch as a window looks at."""
    names = pa.array([event.instrument for event in events]).dictionary_encode()
    numbers = pa.array([event.sequence for event in events], pa.uint64())
    return pa.record_batch(
        {"instrument": names.cast(pa.dictionary(pa.int16(), pa.utf8())), "sequence": numbers}
    )


def window_of(log: Sequence[Sequence[Event]], pace: Pace) -> Window:
    window = Window(pace, 7)
    for events in log:
        places = np.array([event.place for event in events], np.int64)
        window.add(events[0].kind, batch_of(events), places)
    return window


def messages(entries: Sequence[Entry]) -> list[tuple[list[Event], Skipped]]:
    """The events of each message with what it tells as skipped, before them or behind."""
    return [
        (
            [
                Event(name, part.kind, sequence, 0)
                for name, sequence in zip(
                    part.rows["instrument"].to_pylist(),
                    part.rows["sequence"].to_pylist(),
                    strict=True,
                )
            ],
            Skipped(*map(operator.add, part.skipped, part.behind)),
        )
        for entry in entries
        for part in entry.parts
    ]


def latest(events: Sequence[Event]) -> list[Event]:
    last = {(event.instrument, event.kind): event for event in events}
    return [event for event in events if last[event.instrument, event.kind] is event]


def told(entries: Sequence[Entry]) -> dict[str, list[tuple[int, int, int]]]:
    """By instrument what was told, delivered events as ranges without skipped events."""
    found: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for events, skipped in messages(entries):
        ranges = [(e.instrument, e.sequence, e.sequence, 0) for e in events]
        ranges += zip(*skipped, strict=True)
        for name, *rest in sorted(ranges):
            found[name].append((rest[0], rest[1], rest[2]))
    return found


@given(FRAMES, PACES, st.integers(1, 60))
def test_each_event_is_delivered_or_in_one_skipped_range(
    frames: list[tuple[str, list[str]]], pace: Pace, merge_at: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(marketdata.conflation, "_MOST_HELD", merge_at)
        log = log_of(frames)
        events = [event for frame in log for event in frame]
        window = window_of(log, pace)
        entries = window.take(-1, most_rows=64)

    delivered = [event for part, _ in messages(entries) for event in part]
    everything = not pace.latest and len(events) <= (pace.most or 0)
    wanted = events if everything else latest(events)
    names = {(e.instrument, e.kind, e.sequence) for e in wanted}
    got = [(e.instrument, e.kind, e.sequence) for e in delivered]
    assert len(set(got)) == len(got)
    assert set(got) <= names
    assert len(got) == min(len(names), pace.most or len(names))
    for name, ranges in told(entries).items():
        assert [first for first, _, _ in ranges] == [
            1,
            *(last + 1 for _, last, _ in ranges[:-1]),
        ], (name, ranges)
        assert all(count in (0, last - first + 1) for first, last, count in ranges)
        assert ranges[-1][1] == sum(event.instrument == name for event in events)
    assert told(entries).keys() == {event.instrument for event in events}
    assert window.skipped == len(events) - len(delivered)


@given(FRAMES, PACES)
def test_an_instruments_sequences_rise_from_message_to_message(
    frames: list[tuple[str, list[str]]], pace: Pace
) -> None:
    highest: Counter[str] = Counter()
    for events, _ in messages(window_of(log_of(frames), pace).take(-1, most_rows=64)):
        for event in events:
            assert event.sequence > highest[event.instrument]
            highest[event.instrument] = event.sequence


@given(FRAMES, st.data())
def test_what_is_stored_already_is_not_delivered_again(
    frames: list[tuple[str, list[str]]], data: st.DataObject
) -> None:
    """A window that needs several entries goes on behind those that were stored."""
    log, pace = log_of(frames), Pace(1_000, latest=True, most=None)
    most_rows = data.draw(st.integers(max(map(len, log)), 60))
    whole = window_of(log, pace).take(-1, most_rows=most_rows)
    assert [entry.complete for entry in whole] == [False] * (len(whole) - 1) + [True]
    stored = data.draw(st.integers(0, len(whole)))
    after = whole[stored - 1].place if stored else -1

    rest = window_of(log, pace).take(after, most_rows=most_rows)

    assert [entry.place for entry in rest] == [entry.place for entry in whole[stored:]]
    assert messages(rest) == messages(whole[stored:])
    assert all(sum(p.rows.num_rows for p in entry.parts) <= most_rows for entry in whole)


def test_instruments_take_turns_where_the_rate_does_not_suffice() -> None:
    log, pace = log_of([("trade", list("ABCDE"))]), Pace(1_000, latest=True, most=1)
    seen = set()
    for number in range(40):
        window = Window(pace, number)
        window.add("trade", batch_of(log[0]), np.full(5, 10))
        [(events, _)] = messages(window.take(-1, most_rows=8))
        seen.add(events[0].instrument)
    assert seen == set("ABCDE")


@given(st.integers(1, 64), st.integers(1, 10_000), st.none() | st.integers(50, 60_000))
def test_the_partitions_together_keep_to_the_rate(
    partitions: int, rate: int, every_ms: int | None
) -> None:
    delivery = Delivery(max_rate=rate)
    if every_ms:
        delivery = Delivery(max_rate=rate, conflate=Conflate(every_ms))
    pace = pace_of(delivery, partitions)
    assert pace.most is not None
    assert pace.most >= 1
    assert pace.most * partitions * 1_000 <= rate * pace.every_ms
    assert pace.every_ms >= (every_ms or 1_000)


def test_what_is_held_is_bounded_by_instruments_and_kinds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(marketdata.conflation, "_MOST_HELD", 16)
    window = Window(Pace(1_000, latest=True, most=None), 0)
    log = log_of([("trade", list("ABC")), ("quote", list("ABD"))] * 50)
    most = 0
    for events in log:
        window.add(events[0].kind, batch_of(events), np.array([e.place for e in events]))
        most = max(most, len(window))
    assert most < 16 + len("ABCABD")
    assert list(accumulate(len(p.rows) for e in window.take(-1, most_rows=64) for p in e.parts))


def test_skipped_ranges_survive_their_text() -> None:
    skipped = Skipped(('A"', "é"), (1, 2**60), (3, 2**60 + 1), (3, 1))
    assert Skipped.decode(skipped.encode()) == skipped


def test_what_a_rate_left_out_at_the_end_is_done_with_too() -> None:
    [entry] = window_of(
        log_of([("trade", "A"), ("trade", "B")]), Pace(1_000, latest=True, most=1)
    ).take(-1, most_rows=8)
    assert entry.place == 20
