"""Every planted break of continuity is found, and nothing else."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from marketdata.continuity import (
    Continuity,
    DeliveryContinuity,
    Duplicate,
    EpochChange,
    Finding,
    Gap,
    InstrumentContinuity,
    Reversal,
)
from marketdata.control_frames import NEXT_SEQUENCES
from marketdata.skipped import Skipped

Row = tuple[str, int, int]


def columns(
    rows: list[Row],
) -> tuple[pa.DictionaryArray, np.ndarray, np.ndarray]:
    return (
        pa.array([row[0] for row in rows], pa.utf8()).dictionary_encode(),
        np.array([row[1] for row in rows], dtype=np.uint64),
        np.array([row[2] for row in rows], dtype=np.uint32),
    )


def check_all(rows: list[Row], cuts: list[int], *, contiguous: bool) -> list[Finding]:
    """Check rows as frames cut at the given places."""
    checker = InstrumentContinuity(0, contiguous=contiguous)
    places = sorted({0, len(rows), *(cut % (len(rows) + 1) for cut in cuts)})
    found: list[Finding] = []
    for start, end in pairwise(places):
        found += checker.check(*columns(rows[start:end]))
    return found


def model(rows: list[Row], *, contiguous: bool) -> list[Finding]:
    """The same rules, told event by event with sets."""
    last: dict[str, tuple[int, int]] = {}
    missing: dict[str, set[int]] = {}
    found: list[Finding] = []
    for name, sequence, epoch in rows:
        if name not in last or epoch > last[name][1]:
            if name in last:
                found.append(EpochChange(0, name, epoch, sequence, sequence))
            last[name], missing[name] = (sequence, epoch), set()
            continue
        latest, current = last[name]
        if epoch < current:
            found.append(Reversal(0, name, epoch, sequence, sequence))
        elif sequence > latest:
            if contiguous and sequence > latest + 1:
                found.append(Gap(0, name, epoch, latest + 1, sequence - 1))
                missing[name] |= set(range(latest + 1, sequence))
            last[name] = (sequence, epoch)
        else:
            late = sequence in missing[name] if contiguous else sequence != latest
            missing[name].discard(sequence)
            found.append((Reversal if late else Duplicate)(0, name, epoch, sequence, sequence))
    return found


rows_strategy = st.lists(
    st.tuples(st.sampled_from("ABCDE"), st.integers(1, 12), st.integers(1, 2)), max_size=60
)
cuts_strategy = st.lists(st.integers(0, 100), max_size=6)


@settings(deadline=None)
@given(rows=rows_strategy, cuts=cuts_strategy, contiguous=st.booleans())
def test_instruments_agree_with_a_plain_model_however_frames_are_cut(
    rows: list[Row], cuts: list[int], contiguous: bool
) -> None:
    found = check_all(rows, cuts, contiguous=contiguous)
    assert found == model(rows, contiguous=contiguous)


@st.composite
def sound_rows(draw: st.DrawFn) -> list[Row]:
    """Contiguous sequences of several instruments, interleaved, from any start."""
    nexts = {name: draw(st.integers(1, 2**62)) for name in "ABCD"}
    rows = []
    for name in draw(st.lists(st.sampled_from("ABCD"), min_size=2, max_size=80)):
        rows.append((name, nexts[name], 1))
        nexts[name] += 1
    return rows


@settings(deadline=None)
@given(rows=sound_rows(), cuts=cuts_strategy, contiguous=st.booleans())
def test_sound_sequences_give_no_finding(
    rows: list[Row], cuts: list[int], contiguous: bool
) -> None:
    assert check_all(rows, cuts, contiguous=contiguous) == []


@settings(deadline=None)
@given(rows=sound_rows(), cuts=cuts_strategy, data=st.data())
def test_a_dropped_event_is_one_gap(rows: list[Row], cuts: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    name, sequence, epoch = rows[place]
    left = rows[:place] + rows[place + 1 :]
    between = any(row[0] == name for row in rows[:place]) and any(
        row[0] == name for row in rows[place + 1 :]
    )
    expected = [Gap(0, name, epoch, sequence, sequence)] if between else []
    assert check_all(left, cuts, contiguous=True) == expected
    assert check_all(left, cuts, contiguous=False) == []


@settings(deadline=None)
@given(rows=sound_rows(), cuts=cuts_strategy, data=st.data())
def test_a_repeated_event_is_one_duplicate(
    rows: list[Row], cuts: list[int], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    again = data.draw(st.integers(place + 1, len(rows)))
    name, sequence, epoch = rows[place]
    doubled = [*rows[:again], rows[place], *rows[again:]]
    assert check_all(doubled, cuts, contiguous=True) == [
        Duplicate(0, name, epoch, sequence, sequence)
    ]


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=3, max_size=20),
    start=st.integers(1, 10**12),
    data=st.data(),
)
def test_delivery_finds_a_lost_a_repeated_and_a_swapped_frame(
    sizes: list[int], start: int, data: st.DataObject
) -> None:
    firsts = [start + sum(sizes[:i]) for i in range(len(sizes))]
    frames = list(zip(firsts, sizes, strict=True))

    def findings(order: list[tuple[int, int]]) -> list[Finding]:
        continuity = DeliveryContinuity()
        return [f for first, count in order for f in continuity.check("v", 3, first, count)]

    assert findings(frames) == []
    place = data.draw(st.integers(1, len(frames) - 2))
    first, last = frames[place][0], sum(frames[place]) - 1
    assert findings(frames[:place] + frames[place + 1 :]) == [Gap(3, "view:v", 0, first, last)]
    again = data.draw(st.integers(place + 1, len(frames)))
    assert findings([*frames[:again], frames[place], *frames[again:]]) == [
        Duplicate(3, "view:v", 0, first, last)
    ]
    swapped = [*frames[:place], frames[place + 1], frames[place], *frames[place + 2 :]]
    assert findings(swapped) == [
        Gap(3, "view:v", 0, first, last),
        Reversal(3, "view:v", 0, first, last),
    ]


def test_a_frame_that_overlaps_counts_its_old_part_only() -> None:
    continuity = DeliveryContinuity()
    assert continuity.check("v", 0, 1, 10) == []
    assert continuity.check("v", 0, 6, 10) == [Duplicate(0, "view:v", 0, 6, 10)]
    assert continuity.check("v", 0, 16, 1) == []


def test_a_late_frame_fills_part_of_a_gap() -> None:
    continuity = DeliveryContinuity()
    continuity.check("v", 0, 1, 10)
    assert continuity.check("v", 0, 21, 10) == [Gap(0, "view:v", 0, 11, 20)]
    assert continuity.check("v", 0, 14, 3) == [Reversal(0, "view:v", 0, 14, 16)]
    assert continuity.check("v", 0, 9, 14) == [
        Duplicate(0, "view:v", 0, 9, 10),
        Reversal(0, "view:v", 0, 11, 13),
        Duplicate(0, "view:v", 0, 14, 16),
        Reversal(0, "view:v", 0, 17, 20),
        Duplicate(0, "view:v", 0, 21, 22),
    ]


def test_more_holes_than_are_remembered_turn_the_oldest_into_duplicates() -> None:
    continuity = DeliveryContinuity()
    for first in range(1, 3001, 2):
        continuity.check("v", 0, first, 1)
    assert continuity.check("v", 0, 2, 1) == [Duplicate(0, "view:v", 0, 2, 2)]
    assert continuity.check("v", 0, 2998, 1) == [Reversal(0, "view:v", 0, 2998, 2998)]


def test_views_and_partitions_are_counted_apart() -> None:
    continuity = DeliveryContinuity()
    assert continuity.check("v", 0, 1, 5) == []
    assert continuity.check("v", 1, 100, 5) == []
    assert continuity.check("w", 0, 7, 5) == []
    assert continuity.check("v", 0, 6, 5) == []


def frame(rows: list[Row]) -> pa.RecordBatch:
    instruments, sequences, epochs = columns(rows)
    return pa.record_batch(
        {"instrument": instruments, "sequence": pa.array(sequences), "epoch": pa.array(epochs)}
    )


def test_events_of_a_repeated_frame_are_reported_once_by_its_delivery_sequence() -> None:
    continuity = Continuity(contiguous=False)
    batch = frame([("A", 1, 1), ("B", 4, 1), ("A", 2, 1)])
    assert continuity.check(0, batch, view="v", delivery_sequence=1) == []
    assert continuity.check(0, batch, view="v", delivery_sequence=1) == [
        Duplicate(0, "view:v", 0, 1, 3)
    ]
    assert continuity.counts == {"Duplicate": 1}
    assert continuity.breaches == 1


def test_an_epoch_change_is_reported_and_is_no_breach() -> None:
    continuity = Continuity(contiguous=True)
    continuity.check(0, frame([("A", 8, 1)]))
    assert continuity.check(0, frame([("A", 1, 2), ("A", 2, 2)])) == [EpochChange(0, "A", 2, 1, 1)]
    assert continuity.breaches == 0
    assert continuity.check(0, frame([("A", 9, 1)])) == [Reversal(0, "A", 1, 9, 9)]


def test_forgetting_takes_the_next_frame_as_baseline() -> None:
    continuity = Continuity(contiguous=True)
    for partition in (0, 1):
        continuity.check(partition, frame([("A", 5, 1)]), view="v", delivery_sequence=5)
    continuity.forget(0)
    assert continuity.check(0, frame([("A", 2, 1)]), view="v", delivery_sequence=2) == []
    assert continuity.check(1, frame([("A", 9, 1)]), view="v", delivery_sequence=9) == [
        Gap(1, "view:v", 0, 6, 8),
        Gap(1, "A", 1, 6, 8),
    ]
    continuity.forget()
    assert continuity.check(1, frame([("A", 2, 1)]), view="v", delivery_sequence=2) == []


def test_frames_without_the_columns_or_with_nulls_are_not_checked() -> None:
    continuity = Continuity(contiguous=True)
    assert continuity.check(0, pa.record_batch({"px": [1, 2]})) == []
    nulls = pa.record_batch(
        {"instrument": pa.array(["A", None]), "sequence": [1, 1], "epoch": [1, 1]}
    )
    assert continuity.check(0, nulls) == []
    assert continuity.check(0, nulls.slice(0, 0)) == []


def test_plain_string_instruments_are_checked_too() -> None:
    continuity = Continuity(contiguous=True)
    batch = pa.record_batch({"instrument": ["A", "A"], "sequence": [1, 3], "epoch": [1, 1]})
    assert continuity.check(0, batch) == [Gap(0, "A", 1, 2, 2)]


def test_thousands_of_instruments_are_followed() -> None:
    checker = InstrumentContinuity(0, contiguous=True)
    names = [f"I{number}" for number in range(5000)]
    for sequence in (1, 2, 3):
        assert checker.check(*columns([(name, sequence, 1) for name in names])) == []
    assert checker.check(*columns([(names[4321], 5, 1)])) == [Gap(0, "I4321", 1, 4, 4)]


def test_a_higher_delivery_epoch_starts_the_count_anew_and_says_so() -> None:
    continuity = DeliveryContinuity()
    assert continuity.check("v", 0, 8, 3) == []
    assert continuity.check("v", 0, 1, 4, 77) == [EpochChange(0, "view:v", 77, 1, 1)]
    assert continuity.check("v", 0, 5, 2, 77) == []
    assert continuity.check("v", 0, 9, 1, 77) == [Gap(0, "view:v", 77, 7, 8)]


def test_a_hole_at_the_start_of_a_delivery_epoch_is_a_gap() -> None:
    continuity = DeliveryContinuity()
    continuity.check("v", 0, 8, 3)
    assert continuity.check("v", 0, 3, 1, 77) == [
        EpochChange(0, "view:v", 77, 1, 1),
        Gap(0, "view:v", 77, 1, 2),
    ]


def test_a_frame_of_a_former_delivery_epoch_came_before() -> None:
    continuity = DeliveryContinuity()
    continuity.check("v", 0, 1, 3, 77)
    assert continuity.check("v", 0, 9, 2, 5) == [Duplicate(0, "view:v", 5, 9, 10)]


def upcoming(rows: list[Row]) -> pa.RecordBatch:
    """What a heartbeat on `sequenced` carries."""
    return pa.RecordBatch.from_pylist(
        [
            {"instrument": name, "sequence": sequence, "epoch": epoch}
            for name, sequence, epoch in rows
        ],
        schema=NEXT_SEQUENCES,
    )


def heartbeat(**properties: str) -> dict[str, str]:
    return {"kind": "heartbeat", "count": "0", "position": "7", **properties}


Step = tuple[bool, dict[str, tuple[int, int]]]
"""Whether it is a heartbeat, and per instrument (next) sequence and epoch."""

steps_strategy = st.lists(
    st.tuples(
        st.booleans(),
        st.dictionaries(
            st.sampled_from("ABCD"), st.tuples(st.integers(1, 12), st.integers(1, 2)), min_size=1
        ),
    ),
    max_size=20,
)


def model_with_heartbeats(steps: list[Step]) -> list[Finding]:
    """Event by event with sets, heartbeats among the events."""
    last: dict[str, tuple[int, int]] = {}
    missing: dict[str, set[int]] = {}
    found: list[Finding] = []
    for is_heartbeat, says in steps:
        for name, (sequence, epoch) in says.items():
            came = sequence - 1 if is_heartbeat else sequence
            latest, current = last.get(name, (came, epoch))
            if name not in last or epoch > current:
                if name in last:
                    found.append(EpochChange(0, name, epoch, sequence, sequence))
                last[name], missing[name] = (came, epoch), set()
            elif epoch == current and sequence > latest + 1:
                found.append(Gap(0, name, epoch, latest + 1, sequence - 1))
                missing[name] |= set(range(latest + 1, sequence))
                last[name] = (came, epoch)
            elif not is_heartbeat and epoch < current:
                found.append(Reversal(0, name, epoch, sequence, sequence))
            elif not is_heartbeat and sequence <= latest:
                late = sequence in missing[name]
                missing[name].discard(sequence)
                found.append((Reversal if late else Duplicate)(0, name, epoch, sequence, sequence))
            elif not is_heartbeat:
                last[name] = (sequence, epoch)
    return found


@settings(deadline=None)
@given(steps=steps_strategy)
def test_heartbeats_and_events_agree_with_a_plain_model(steps: list[Step]) -> None:
    continuity = Continuity(contiguous=True)
    found: list[Finding] = []
    for is_heartbeat, says in steps:
        rows = [(name, sequence, epoch) for name, (sequence, epoch) in says.items()]
        if is_heartbeat:
            found += continuity.check_control(0, upcoming(rows), heartbeat())
        else:
            found += continuity.check(0, frame(rows))
    assert found == model_with_heartbeats(steps)
    assert continuity.counts.total() == len(found)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 50), min_size=2, max_size=20),
    start=st.integers(1, 10**12),
    epoch=st.integers(0, 2**62),
    data=st.data(),
)
def test_a_heartbeat_finds_exactly_what_was_lost_at_the_end_of_a_burst(
    sizes: list[int], start: int, epoch: int, data: st.DataObject
) -> None:
    came = data.draw(st.integers(1, len(sizes)))
    continuity = Continuity(contiguous=False)
    number = start
    for size in sizes[:came]:
        batch = pa.record_batch({"px": [0] * size})
        assert (
            continuity.check(0, batch, view="v", delivery_sequence=number, delivery_epoch=epoch)
            == []
        )
        number += size
    following = start + sum(sizes)
    says = heartbeat(view="v", delivery_sequence=str(following), delivery_epoch=str(epoch))
    lost = [Gap(0, "view:v", epoch, number, following - 1)] if came < len(sizes) else []
    assert continuity.check_control(0, upcoming([]), says) == lost
    # Told once; and what comes next is as the heartbeat said.
    assert continuity.check_control(0, upcoming([]), says) == []
    batch = pa.record_batch({"px": [0]})
    assert (
        continuity.check(0, batch, view="v", delivery_sequence=following, delivery_epoch=epoch)
        == []
    )


def test_a_heartbeat_is_a_baseline_where_nothing_came_before() -> None:
    continuity = Continuity(contiguous=True)
    says = heartbeat(view="v", delivery_sequence="11")
    assert continuity.check_control(0, upcoming([]), says) == []
    assert continuity.check(0, frame([]), view="v", delivery_sequence=12) == [
        Gap(0, "view:v", 0, 11, 11)
    ]
    assert continuity.check_control(1, upcoming([("A", 4, 1)]), heartbeat()) == []
    assert continuity.check(1, frame([("A", 5, 1)])) == [Gap(1, "A", 1, 4, 4)]


def test_a_heartbeat_of_a_former_epoch_says_nothing() -> None:
    continuity = DeliveryContinuity()
    continuity.check("v", 0, 1, 3, 77)
    assert continuity.check("v", 0, 9, 0, 5) == []


def test_next_sequences_are_not_asked_where_a_filter_leaves_holes() -> None:
    continuity = Continuity(contiguous=False)
    continuity.check(0, frame([("A", 1, 1)]))
    assert continuity.check_control(0, upcoming([("A", 9, 1)]), heartbeat()) == []


def test_an_epoch_frame_tells_its_reason() -> None:
    continuity = Continuity(contiguous=True)
    epoch = {"kind": "epoch", "count": "0", "epoch": "2", "reason": "the log was lost"}
    assert continuity.check_control(0, upcoming([]), epoch) == [
        EpochChange(0, "*", 2, 1, 1, "the log was lost")
    ]
    continuity.check(0, frame([]), view="v", delivery_sequence=8)
    of_view = epoch | {"view": "v", "delivery_sequence": "3", "delivery_epoch": "9"}
    assert continuity.check_control(0, upcoming([]), of_view) == [
        EpochChange(0, "view:v", 9, 1, 1, "the log was lost"),
        Gap(0, "view:v", 9, 1, 2),
    ]
    assert continuity.counts == {"EpochChange": 2, "Gap": 1}


def test_events_read_again_are_duplicates_from_then_on() -> None:
    continuity = Continuity(contiguous=True)
    rows = [("A", number, 1) for number in range(1, 5)]
    continuity.check(0, frame(rows[:1]), view="v", delivery_sequence=1)
    continuity.check(0, frame(rows[3:]), view="v", delivery_sequence=4)
    continuity.fill(0, frame(rows[1:3]), view="v", delivery_sequence=2)
    assert continuity.counts == {"Gap": 2}
    assert continuity.check(0, frame(rows[1:3]), view="v", delivery_sequence=2) == [
        Duplicate(0, "view:v", 0, 2, 3)
    ]
    assert continuity.check(0, frame(rows[1:2])) == [Duplicate(0, "A", 1, 2, 2)]
    filtered = Continuity(contiguous=False)
    filtered.fill(0, frame(rows))
    assert filtered.check(0, frame(rows[:1])) == []


def test_what_is_told_as_skipped_is_no_gap() -> None:
    continuity = Continuity(contiguous=True)
    told = Skipped(("A", "A"), (2, 6), (4, 6), (3, 1)).encode()
    checked = [
        continuity.check(0, frame([("A", 1, 1)])),
        continuity.check(0, frame([("A", 5, 1), ("A", 7, 1)]), properties={"skipped": told}),
        continuity.check(0, frame([("A", 9, 1)])),
    ]
    assert checked == [[], [], [Gap(0, "A", 1, 8, 8)]]


def test_one_of_n_is_no_gap_and_a_lost_one_is() -> None:
    continuity = Continuity(contiguous=True)
    checked = [
        continuity.check(0, frame([("A", n, 1)]), properties={"one_of": "10"})
        for n in (20, 30, 50, 50)
    ]
    assert checked[:3] == [[], [], [Gap(0, "A", 1, 31, 40)]]
    assert [type(finding) for finding in checked[3]] == [Duplicate]
