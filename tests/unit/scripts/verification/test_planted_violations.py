"""Every violation there is, planted into an otherwise perfect run: found, and nothing else is.

The run has two publishers' worth of everything: two partitions, views in several shapes, a new
epoch with its reason, heartbeats in the log and in the views, redelivered messages, and an event
that is uncertain. `PLANTED` must name every violation, for the log and for views.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from marketdata.schemas import INGEST_SCHEMAS
from scripts.verification.checker import check
from scripts.verification.expectations import ViewExpectation
from scripts.verification.recording import History
from scripts.verification.report import Report, Violation
from tests.unit.scripts.verification.world import (
    ALL,
    CHEAP,
    Control,
    Frame,
    Row,
    World,
    batch_of,
    clean_world,
    trade,
)

NEW = replace(ALL, from_first=True)
SELECTED: ViewExpectation = replace(CHEAP, select=("instrument", "sequence", "epoch", "price"))


def perfect_world() -> World:
    """A run with everything in it that may happen, and nothing that may not."""
    world = clean_world()
    world.expectations = (NEW, SELECTED)
    _open_epoch(world)
    for number, frames in enumerate(world.views.values()):
        _mirror_epochs(world, frames)
        _announce(frames, number)
    _open_delivery_epoch(world.views["all"])
    for before in (0, 20, 40, len(world.log)):
        for partition in (0, 1):
            world.controls.append(_heartbeat(world, before, partition))
    # Delivered once more under its id, as after a reconnect.
    world.views["cheap"].insert(6, world.views["cheap"][4])
    return world


def _open_epoch(world: World) -> None:
    opened: dict[str, int] = {}
    at = next(n for n in range(30, len(world.log)) if world.log[n][0] == 1)
    for partition, rows in world.log[at:]:
        for row in rows:
            if partition == 1:
                start = opened.setdefault(row["instrument"], row["sequence"] - 1)
                row |= {"epoch": 2, "sequence": row["sequence"] - start}
    told = {"kind": "epoch", "count": "0", "epoch": "2", "reason": "retention took the log's end"}
    world.controls.append(Control(at, 1, told))


def _mirror_epochs(world: World, frames: list[Frame]) -> None:
    log = {
        (row["instrument"], row["source_sequence"]): row for _, rows in world.log for row in rows
    }
    for frame in frames:
        frame.rows[:] = [dict(log[row["instrument"], row["source_sequence"]]) for row in frame.rows]


def _announce(frames: list[Frame], number: int) -> None:
    """A heartbeat behind every tenth frame, and at the end of each partition."""
    ends = {frame.partition: at for at, frame in enumerate(frames)}
    places = sorted({*range(9, len(frames), 10), *ends.values()}, reverse=True)
    for place in places:
        behind = frames[place]
        properties = {
            "kind": "heartbeat",
            "count": "0",
            "delivery_epoch": behind.properties["delivery_epoch"],
            "delivery_sequence": str(
                int(behind.properties["delivery_sequence"]) + len(behind.rows)
            ),
        }
        frames.insert(place + 1, Frame(behind.partition, [], properties, 5_000 + place + number))


def _open_delivery_epoch(frames: list[Frame]) -> None:
    """From the middle of partition 0 on the view counts anew, and says why."""
    mine = [frame for frame in frames if frame.partition == 0][15:]
    first = next(frame for frame in mine if frame.properties["kind"] == "trade")
    mine = mine[mine.index(first) :]
    start = int(first.properties["delivery_sequence"]) - 1
    for frame in mine:
        number = int(frame.properties["delivery_sequence"]) - start
        frame.properties |= {"delivery_epoch": "77", "delivery_sequence": str(number)}
    told = {"kind": "epoch", "count": "0", "delivery_epoch": "77", "delivery_sequence": "1"}
    frames.insert(frames.index(first), Frame(0, [], told | {"reason": "trimmed"}, 9_000))


def _heartbeat(world: World, before: int, partition: int) -> Control:
    newest: dict[str, tuple[int, int]] = {}
    for owner, rows in world.log[:before]:
        if owner == partition:
            newest.update({row["instrument"]: (row["sequence"], row["epoch"]) for row in rows})
    following = [(name, sequence + 1, epoch) for name, (sequence, epoch) in newest.items()]
    return Control(before, partition, {"kind": "heartbeat", "count": "0"}, following)


def recorded(world: World) -> History:
    """The world, with an event of which nobody knows whether it is stored."""
    history = world.history()
    unknown = batch_of([trade("A", 500, price=170)], INGEST_SCHEMAS["trade"])
    history.accepted("publisher", 0, unknown, certain=False)
    return history


def found(report: Report) -> dict[str, dict[str, int]]:
    return {
        stream.name: {str(kind): count for kind, count in stream.violations.items()}
        for stream in report.streams
        if not stream.ok
    }


def trades(world: World, view: str, partition: int | None = None) -> list[Frame]:
    return [
        frame
        for frame in world.views[view]
        if frame.properties["kind"] == "trade" and partition in {None, frame.partition}
    ]


def heartbeats(world: World, view: str) -> list[Frame]:
    return [f for f in world.views[view] if f.properties["kind"] == "heartbeat"]


def in_log(world: World, instrument: str, number: int) -> Row:
    return next(
        row
        for _, rows in world.log
        for row in rows
        if (row["instrument"], row["source_sequence"]) == (instrument, number)
    )


def drop_from_views(world: World, instrument: str, number: int) -> None:
    """Leave an event out of the views with the numbers that they would have had without it."""
    for frames in world.views.values():
        lowered: set[int] = set()
        for frame in frames:
            properties = frame.properties
            if frame.partition in lowered and properties["delivery_epoch"] == "0":
                shifted = int(properties["delivery_sequence"]) - 1
                properties["delivery_sequence"] = str(shifted)
            kept = [
                row
                for row in frame.rows
                if (row["instrument"], row["source_sequence"]) != (instrument, number)
            ]
            if len(kept) < len(frame.rows):
                lowered.add(frame.partition)
                frame.rows[:] = kept
                properties["count"] = str(len(kept))


def behind(frame: Frame, rows: list[Row], **properties: str) -> Frame:
    """A frame that rightly follows another."""
    start = int(frame.properties["delivery_sequence"]) + len(frame.rows)
    told = {"delivery_sequence": str(start), "count": str(len(rows)), "kind": "trade"}
    return Frame(
        frame.partition, rows, {"plan": "5"} | frame.properties | told | properties, 99_000
    )


# -- what can be planted into the log ---------------------------------------------------------


def log_loses_an_accepted_event(world: World) -> None:
    world.accepted.append((0, [trade("B", 600, price=170)]))


def log_holds_an_event_twice(world: World) -> None:
    newest = in_log(world, "C", last_number(world, "C"))
    world.log.append((0, [in_log(world, "C", 4) | {"sequence": newest["sequence"] + 1}]))


def log_swaps_two_events(world: World) -> None:
    """Under contiguous sequences: they were given in the wrong order."""
    number = next(
        n
        for n in range(1, last_number(world, "C"))
        if all(in_log(world, "C", each)["price"] >= 150 for each in (n, n + 1))
    )
    numbers = (number, number + 1)
    swapped = {each: dict(in_log(world, "C", each)) for each in numbers}
    for rows in [rows for _, rows in world.log] + [f.rows for f in world.views["all"]]:
        for at, row in enumerate(rows):
            if row["instrument"] == "C" and row["source_sequence"] in numbers:
                other = next(n for n in numbers if n != row["source_sequence"])
                rows[at] = swapped[other] | {"sequence": row["sequence"]}


def log_invents_an_event(world: World) -> None:
    world.log.append((0, [trade("NEW", 1, price=170)]))


def log_changes_an_event(world: World) -> None:
    in_log(world, "C", 4)["size"] = 101


def log_leaves_a_number_out(world: World) -> None:
    """Heartbeats go along with it: they tell the truth about the wrong numbers."""
    for row in (row for _, rows in world.log for row in rows):
        if row["instrument"] == "C" and row["source_sequence"] >= 9:
            row["sequence"] += 3
    for frames in world.views.values():
        _mirror_epochs(world, frames)
    for at, control in enumerate(world.controls):
        if control.properties["kind"] == "heartbeat":
            world.controls[at] = _heartbeat(world, control.before, control.partition)


def log_begins_above_1(world: World) -> None:
    world.accepted.append((0, [trade("NEW", 1, price=170)]))
    world.log.append((0, [trade("NEW", 1, price=170) | {"sequence": 2}]))
    all_of_0 = world.views["all"][-1 - [f.partition for f in world.views["all"]][::-1].index(0)]
    row = trade("NEW", 1, price=170) | {"sequence": 2}
    world.views["all"].append(behind(all_of_0, [row]))


def log_gives_a_number_twice(world: World) -> None:
    """A foreign event takes the number of one of ours."""
    newest = in_log(world, "C", last_number(world, "C"))
    foreign = trade("C", 1, price=170) | {"source": "elsewhere", "sequence": newest["sequence"]}
    world.log.append((0, [foreign]))


def log_turns_numbers_round(world: World) -> None:
    one, two = in_log(world, "C", 6), in_log(world, "C", 7)
    one["sequence"], two["sequence"] = two["sequence"], one["sequence"]
    for frames in world.views.values():
        _mirror_epochs(world, frames)


def log_puts_an_event_elsewhere(world: World) -> None:
    """A new instrument, accepted in one partition and stored in the other."""
    row = trade("NEW", 1, price=170)
    world.accepted.append((1, [row]))
    world.log.append((0, [row]))
    last = [frame for frame in world.views["all"] if frame.partition == 0][-1]
    world.views["all"].append(behind(last, [row]))


def log_heartbeat_is_behind(world: World) -> None:
    _lower(world.controls[-2], by=1)


def log_heartbeat_is_ahead(world: World) -> None:
    _lower(world.controls[-2], by=-1)


def log_heartbeat_of_an_epoch_that_is_over(world: World) -> None:
    control = world.controls[-1]
    control.following = [(name, number, 1) for name, number, _ in control.following[:1]]


def log_epoch_without_a_word(world: World) -> None:
    world.controls = [c for c in world.controls if c.properties["kind"] == "heartbeat"]


def log_epoch_without_a_reason(world: World) -> None:
    _epoch_of_log(world).properties["reason"] = " "


def log_epoch_told_too_late(world: World) -> None:
    _epoch_of_log(world).before = len(world.log)


def log_repeats_an_earlier_history(world: World) -> None:
    """See `test_what_an_earlier_history_held_must_not_come_again`."""


# -- what can be planted into a view ----------------------------------------------------------


def view_loses_an_event(world: World) -> None:
    """Numbers are given after the loss, so only what was accepted tells."""
    kept = world.log[:]
    drop_from_views(world, "B", 2)
    world.log[:] = kept


def view_holds_an_event_twice(world: World) -> None:
    last = trades(world, "cheap", 1)[-1]
    world.views["cheap"].append(behind(last, [dict(trades(world, "cheap", 1)[2].rows[0])]))


def view_swaps_two_events(world: World) -> None:
    for frame in trades(world, "all", 1):
        for one in range(len(frame.rows)):
            for two in range(one + 1, len(frame.rows)):
                if frame.rows[one]["instrument"] == frame.rows[two]["instrument"]:
                    rows = frame.rows
                    rows[one], rows[two] = rows[two], rows[one]
                    return
    raise LookupError


def view_holds_what_does_not_belong(world: World) -> None:
    stray = next(row for _, rows in world.log for row in rows if row["price"] >= 150)
    last = trades(world, "cheap", 0)[-1]
    world.views["cheap"].append(behind(last, [dict(stray)]))


def view_changes_a_value(world: World) -> None:
    trades(world, "cheap")[3].rows[0]["price"] += 1


def view_leaves_a_delivery_out(world: World) -> None:
    """Foreign events that were lost: only the numbers tell."""
    _shift(world, "cheap", 1, by=3)


def view_repeats_a_delivery(world: World) -> None:
    _shift(world, "cheap", 1, by=-1)


def view_says_another_count(world: World) -> None:
    trades(world, "all")[7].properties["count"] = "99"


def view_falls_back_to_an_old_plan(world: World) -> None:
    trades(world, "all", 1)[-1].properties["plan"] = "2"


def view_heartbeat_is_behind(world: World) -> None:
    _renumber(heartbeats(world, "cheap")[1], by=-1)


def view_heartbeat_is_ahead(world: World) -> None:
    _renumber(heartbeats(world, "all")[0], by=1)


def view_last_heartbeat_names_what_never_came(world: World) -> None:
    _renumber(heartbeats(world, "cheap")[-1], by=2)


def view_epoch_without_a_word(world: World) -> None:
    world.views["all"] = [f for f in world.views["all"] if f.properties["kind"] != "epoch"]


def view_epoch_without_a_reason(world: World) -> None:
    next(f for f in world.views["all"] if f.properties["kind"] == "epoch").properties.pop("reason")


def view_epoch_falls(world: World) -> None:
    """Its number goes on, so that nothing but the epoch tells."""
    last = [frame for frame in world.views["all"] if frame.partition == 0][-1]
    row = dict(trades(world, "all", 0)[-1].rows[-1])
    world.views["all"].append(behind(last, [row], delivery_epoch="0"))


def last_number(world: World, instrument: str) -> int:
    rows = (row for _, rows in world.log for row in rows)
    return max(row["source_sequence"] for row in rows if row["instrument"] == instrument)


def _lower(control: Control, *, by: int) -> None:
    name, number, epoch = control.following[0]
    control.following[0] = (name, number - by, epoch)


def _renumber(frame: Frame, *, by: int) -> None:
    number = int(frame.properties["delivery_sequence"]) + by
    frame.properties["delivery_sequence"] = str(number)


def _epoch_of_log(world: World) -> Control:
    return next(c for c in world.controls if c.properties["kind"] == "epoch")


def _shift(world: World, view: str, partition: int, *, by: int) -> None:
    """Move the numbers of the partition's last five frames and of the heartbeats among them."""
    mine = [frame for frame in world.views[view] if frame.partition == partition]
    for frame in mine[mine.index(trades(world, view, partition)[-5]) :]:
        _renumber(frame, by=by)


@dataclass(frozen=True)
class Planted:
    plant: Callable[[World], None]
    expected: dict[str, dict[Violation, int]]


LOG, ALL_, CHEAP_ = "sequenced", "all", "cheap"
V = Violation

PLANTED = [
    Planted(log_loses_an_accepted_event, {LOG: {V.MISSING: 1}, ALL_: {V.MISSING: 1}}),
    Planted(log_holds_an_event_twice, {LOG: {V.DUPLICATES: 1}}),
    Planted(log_swaps_two_events, {LOG: {V.OUT_OF_ORDER: 1}, ALL_: {V.OUT_OF_ORDER: 1}}),
    Planted(log_invents_an_event, {LOG: {V.UNEXPECTED: 1}}),
    Planted(
        log_changes_an_event,
        {LOG: {V.MISSING: 1, V.UNEXPECTED: 1}, ALL_: {V.MISSING: 1, V.UNEXPECTED: 1}},
    ),
    Planted(log_leaves_a_number_out, {LOG: {V.SEQUENCE_GAPS: 3}}),
    Planted(log_begins_above_1, {LOG: {V.SEQUENCE_GAPS: 1}}),
    Planted(log_gives_a_number_twice, {LOG: {V.SEQUENCE_REPEATS: 1}}),
    Planted(log_turns_numbers_round, {LOG: {V.SEQUENCE_REVERSALS: 1}}),
    Planted(log_puts_an_event_elsewhere, {LOG: {V.WRONG_PARTITION: 1}}),
    Planted(log_heartbeat_is_behind, {LOG: {V.HEARTBEAT_LIES: 1}}),
    Planted(log_heartbeat_is_ahead, {LOG: {V.HEARTBEAT_LIES: 1}}),
    Planted(log_heartbeat_of_an_epoch_that_is_over, {LOG: {V.HEARTBEAT_LIES: 1}}),
    Planted(log_epoch_without_a_word, {LOG: {V.UNEXPLAINED_EPOCHS: 2}}),
    Planted(log_epoch_without_a_reason, {LOG: {V.UNEXPLAINED_EPOCHS: 1}}),
    Planted(log_epoch_told_too_late, {LOG: {V.UNEXPLAINED_EPOCHS: 2}}),
    Planted(view_loses_an_event, {ALL_: {V.MISSING: 1}}),
    Planted(view_holds_an_event_twice, {CHEAP_: {V.DUPLICATES: 1}}),
    Planted(view_swaps_two_events, {ALL_: {V.OUT_OF_ORDER: 1}}),
    Planted(view_holds_what_does_not_belong, {CHEAP_: {V.UNEXPECTED: 1}}),
    Planted(view_changes_a_value, {CHEAP_: {V.ALTERED: 1}}),
    Planted(view_leaves_a_delivery_out, {CHEAP_: {V.DELIVERY_GAPS: 3}}),
    Planted(view_repeats_a_delivery, {CHEAP_: {V.DELIVERY_REPEATS: 1}}),
    Planted(view_says_another_count, {ALL_: {V.WRONG_COUNT: 1}}),
    Planted(view_falls_back_to_an_old_plan, {ALL_: {V.PLAN_REVERSALS: 1}}),
    Planted(view_heartbeat_is_behind, {CHEAP_: {V.HEARTBEAT_LIES: 1}}),
    Planted(view_heartbeat_is_ahead, {ALL_: {V.HEARTBEAT_LIES: 1}}),
    Planted(view_last_heartbeat_names_what_never_came, {CHEAP_: {V.HEARTBEAT_LIES: 1}}),
    Planted(view_epoch_without_a_word, {ALL_: {V.UNEXPLAINED_EPOCHS: 1}}),
    Planted(view_epoch_without_a_reason, {ALL_: {V.UNEXPLAINED_EPOCHS: 1}}),
    # An epoch that falls uses numbers again, and whatever it holds was there before.
    Planted(view_epoch_falls, {ALL_: {V.DELIVERY_REPEATS: 1, V.DUPLICATES: 1}}),
]


def test_nothing_is_found_in_the_perfect_run() -> None:
    report = check(recorded(perfect_world()), from_first=True)

    assert found(report) == {}
    assert report.views["cheap"].redelivered == 1


@pytest.mark.parametrize("planted", PLANTED, ids=lambda one: one.plant.__name__)
def test_what_is_planted_is_found_and_nothing_else(planted: Planted) -> None:
    world = perfect_world()
    planted.plant(world)

    report = check(recorded(world), from_first=True)

    assert found(report) == {
        name: {str(kind): count for kind, count in kinds.items()}
        for name, kinds in planted.expected.items()
    }


def test_every_violation_is_planted() -> None:
    assert {kind for one in PLANTED for kinds in one.expected.values() for kind in kinds} == set(V)


def next_world(first: World) -> World:
    """A run right behind the first: other events of the same instruments, in the same streams."""
    world = clean_world()
    world.run = 1
    world.expectations = first.expectations
    newest: dict[str, tuple[int, int]] = {}
    for _, rows in first.log:
        newest.update({row["instrument"]: (row["sequence"], row["epoch"]) for row in rows})
    streams: list[list[Row]] = [rows for _, rows in world.accepted]
    streams += [rows for _, rows in world.log]
    streams += [frame.rows for frames in world.views.values() for frame in frames]
    for row in (row for rows in streams for row in rows):
        number, epoch = newest[row["instrument"]]
        row |= {"source": "next", "sequence": row["source_sequence"] + number, "epoch": epoch}
    for name, frames in world.views.items():
        for frame in frames:
            last = [f for f in first.views[name] if f.partition == frame.partition][-1]
            start = int(last.properties["delivery_sequence"]) + len(last.rows) - 1
            _renumber(frame, by=start)
            frame.properties |= {
                "plan": "6",
                "delivery_epoch": last.properties["delivery_epoch"],
            }
    return world


def judged_after(first: World, second: World) -> Report:
    before = recorded(first)
    assert check(before, from_first=True).ok
    return check(second.history(after=before), from_first=True)


def test_a_history_goes_on_where_the_one_before_ended() -> None:
    first = perfect_world()

    report = judged_after(first, next_world(first))

    assert found(report) == {}
    assert report.accepted == report.sequenced.delivered == report.views["all"].delivered == 240


def lose_between(world: World, _: World) -> None:
    for rows in [rows for _, rows in world.log] + [f.rows for f in world.views["all"]]:
        for row in rows:
            row["sequence"] += 2 if row["instrument"] == "A" else 0
    for frame in world.views["cheap"]:
        for row in frame.rows:
            row["sequence"] += 2 if row["instrument"] == "A" else 0


def deliver_again(world: World, first: World) -> None:
    row = dict(trades(first, "cheap", 0)[0].rows[0])
    world.views["cheap"].append(behind(trades(world, "cheap", 0)[-1], [row]))


def sequence_again(world: World, first: World) -> None:
    newest = max(
        row["sequence"] for _, rows in world.log for row in rows if row["instrument"] == "A"
    )
    world.log.append((0, [in_log(first, "A", 2) | {"sequence": newest + 1}]))


def skip_deliveries(world: World, _: World) -> None:
    for frame in trades(world, "all", 1):
        _renumber(frame, by=2)


def older_plan(world: World, _: World) -> None:
    trades(world, "all", 1)[0].properties["plan"] = "1"


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (lose_between, {LOG: {V.SEQUENCE_GAPS: 2}}),
        (sequence_again, {LOG: {V.DUPLICATES: 1}}),
        (deliver_again, {CHEAP_: {V.DUPLICATES: 1}}),
        (skip_deliveries, {ALL_: {V.DELIVERY_GAPS: 2}}),
        (older_plan, {ALL_: {V.PLAN_REVERSALS: 1}}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_happens_between_two_histories_is_found(
    plant: Callable[[World, World], None], expected: dict[str, dict[Violation, int]]
) -> None:
    first = perfect_world()
    second = next_world(first)
    plant(second, first)

    assert found(judged_after(first, second)) == {
        name: {str(kind): count for kind, count in kinds.items()}
        for name, kinds in expected.items()
    }


def test_a_consumer_that_leaves_need_not_have_the_end_but_the_middle() -> None:
    world = perfect_world()
    leaving: Any = replace(SELECTED, leaves_midway=True)
    world.expectations = (NEW, leaving)
    frames = world.views["cheap"]
    del frames[len(frames) // 2 :]
    assert found(check(recorded(world), from_first=True)) == {}

    lost = frames.pop(3)

    report = check(recorded(world), from_first=True)
    assert report.views["cheap"].count(Violation.MISSING) == len(lost.rows)
