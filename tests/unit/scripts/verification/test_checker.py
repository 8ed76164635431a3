"""Each kind of violation is planted into a clean run and found: it, its number, nothing else."""

from dataclasses import replace
from typing import Any

import pyarrow.compute as pc
import pytest

from marketdata.schemas import INGEST_SCHEMAS
from scripts.verification.checker import check
from scripts.verification.report import Report, Violation
from tests.unit.scripts.verification.world import (
    ALL,
    CHEAP,
    Control,
    Row,
    World,
    batch_of,
    clean_world,
    trade,
)


def found(report: Report) -> dict[str, dict[str, int]]:
    """Stream -> violation -> count, of streams with violations."""
    return {
        stream.name: {str(kind): count for kind, count in stream.violations.items()}
        for stream in report.streams
        if not stream.ok
    }


def locate(
    frames: list[tuple[int, list[Row]]], instrument: str, number: int
) -> tuple[list[Row], int]:
    for _partition, rows in frames:
        for at, row in enumerate(rows):
            if (row["instrument"], row["source_sequence"]) == (instrument, number):
                return rows, at
    raise LookupError(instrument, number)


def test_nothing_is_found_in_a_clean_run() -> None:
    report = clean_world().report(from_first=True)

    assert found(report) == {}
    assert report.ok
    assert report.accepted == report.sequenced.delivered == report.views["all"].delivered == 240
    assert 0 < report.views["cheap"].delivered == report.views["cheap"].expected < 240
    assert len(report.views["all"].latency_ns) == 240
    assert "all in order" in report.text()


def test_an_empty_run_is_in_order() -> None:
    assert found(World(views={"all": [], "cheap": []}).report(from_first=True)) == {}


def test_a_run_of_which_nothing_arrived_misses_everything() -> None:
    world = clean_world()
    world.log.clear()
    for frames in world.views.values():
        frames.clear()

    report = world.report()

    assert report.sequenced.count(Violation.MISSING) == 240
    assert report.views["all"].count(Violation.MISSING) == 240


def test_an_event_that_the_log_lost_without_leaving_a_hole_is_missing() -> None:
    """Sequences are given after the loss, so only what was accepted tells."""
    world = clean_world()
    rows, at = locate(world.accepted, "A", 1)
    world.accepted.insert(0, (0, [trade("A", 0, price=170)]))

    report = world.report(from_first=True)

    assert found(report) == {"sequenced": {"missing": 1}, "all": {"missing": 1}}
    assert report.sequenced.samples[Violation.MISSING] == [
        "A source sequence 0 of made-up, partition 0"
    ]
    assert rows[at]["source_sequence"] == 1


def test_an_uncertain_event_may_be_missing_but_not_doubled() -> None:
    world = clean_world()
    history = world.history()
    lost = batch_of([trade("A", 500, price=170)], INGEST_SCHEMAS["trade"])
    history.accepted("publisher", 0, lost, certain=False)

    assert found(check(history)) == {}


def test_an_event_doubled_in_the_log_is_a_duplicate_there_and_in_its_views() -> None:
    """The second copy has a sequence of its own: only its content gives it away."""
    world = clean_world()
    last = max(row["sequence"] for _, rows in world.log for row in rows if row["instrument"] == "X")
    rows, at = locate(world.log, "X", 7)
    copy = rows[at] | {"sequence": last + 1}
    world.log.append((1, [copy]))
    frame = world.views["all"][-1]
    again = replace(frame, rows=[copy], message_id=99, properties=after(frame.properties, 1))
    world.views["all"].append(again)

    assert found(world.report(from_first=True)) == {
        "sequenced": {"duplicates": 1},
        "all": {"duplicates": 1},
    }


def after(properties: dict[str, str], count: int) -> dict[str, str]:
    """Properties of a frame of `count` events right behind another."""
    start = int(properties["delivery_sequence"]) + int(properties["count"])
    return properties | {"delivery_sequence": str(start), "count": str(count)}


def test_an_event_that_overtook_another_in_the_log_is_out_of_order() -> None:
    """The sequences are contiguous; they were given in the wrong order."""
    world = clean_world()
    (rows, at), (others, there) = locate(world.log, "B", 4), locate(world.log, "B", 5)
    one, two = rows[at], others[there]
    rows[at], others[there] = two | {"sequence": 4}, one | {"sequence": 5}
    mirror(world)

    report = world.report(from_first=True)

    assert found(report) == {name: {"out_of_order": 1} for name in ("sequenced", "all")} | (
        {"cheap": {"out_of_order": 1}} if one["price"] < 150 > two["price"] else {}
    )


def mirror(world: World) -> None:
    """Make the views again from the log."""
    fresh: dict[str, list[Row]] = {"all": [], "cheap": []}
    for _, rows in world.log:
        fresh["all"] += rows
        fresh["cheap"] += [row for row in rows if row["price"] < 150]
    for name, rows in fresh.items():
        by_partition = {0: [r for r in rows if r["instrument"] in "ABC"], 1: []}
        by_partition[1] = [r for r in rows if r["instrument"] in "XY"]
        template = world.views[name][0]
        world.views[name] = [
            replace(
                template,
                partition=partition,
                rows=held,
                properties=template.properties
                | {"delivery_sequence": "1", "count": str(len(held))},
                message_id=partition,
            )
            for partition, held in by_partition.items()
        ]


def test_a_sequence_that_is_left_out_is_a_gap() -> None:
    world = clean_world()
    for _, rows in world.log:
        for row in rows:
            if row["instrument"] == "C" and row["sequence"] >= 9:
                row["sequence"] += 3
    mirror(world)

    report = world.report(from_first=True)

    assert found(report) == {"sequenced": {"sequence_gaps": 3}}
    assert report.sequenced.samples[Violation.SEQUENCE_GAPS] == [
        "3 before C sequence 12 of epoch 1, partition 0"
    ]


@pytest.mark.parametrize(("from_first", "expected"), [(True, 5), (False, 0)])
def test_a_sequence_that_does_not_start_at_1_is_a_gap_when_the_instrument_is_new(
    from_first: bool, expected: int
) -> None:
    world = clean_world()
    for _, rows in world.log:
        for row in rows:
            if row["instrument"] == "C":
                row["sequence"] += 5
    mirror(world)

    assert world.report(from_first=from_first).sequenced.count(Violation.SEQUENCE_GAPS) == expected


def test_a_sequence_given_twice_is_a_repeat() -> None:
    world = clean_world()
    rows, at = locate(world.log, "Y", 6)
    rows[at]["sequence"] = 5

    report = world.report(from_first=True)

    assert found(report)["sequenced"] == {"sequence_repeats": 1, "sequence_gaps": 1}


def test_sequences_that_stand_the_wrong_way_round_are_a_reversal() -> None:
    world = clean_world()
    (rows, at), (others, there) = locate(world.log, "Y", 6), locate(world.log, "Y", 7)
    rows[at]["sequence"], others[there]["sequence"] = 7, 6
    mirror(world)

    assert found(world.report(from_first=True)) == {"sequenced": {"sequence_reversals": 1}}


def test_a_new_epoch_begins_at_1() -> None:
    world = clean_world()
    for _, rows in world.log:
        for row in rows:
            if row["instrument"] == "X" and row["sequence"] > 10:
                row |= {"epoch": 2, "sequence": row["sequence"] - 10}
    world.expectations = (ALL,)
    mirror(world)
    first = next(n for n, (_, rows) in enumerate(world.log) if any(r["epoch"] == 2 for r in rows))
    told = {"kind": "epoch", "count": "0", "epoch": "2", "reason": "the log was trimmed"}
    world.controls.append(Control(first, 1, told))
    # The frame that opens the epoch stands between two frames.
    partition, rows = world.log[first]
    split = next(at for at, row in enumerate(rows) if row["epoch"] == 2)
    world.log[first : first + 1] = [(partition, rows[:split]), (partition, rows[split:])]
    world.controls[0].before += 1
    assert found(world.report(from_first=True)) == {}

    for _, rows in world.log:
        for row in rows:
            if row["epoch"] == 2:
                row["sequence"] += 2
    mirror(world)
    assert found(world.report()) == {"sequenced": {"sequence_gaps": 2}}


def test_an_epoch_that_falls_is_a_reversal() -> None:
    world = clean_world()
    rows, at = locate(world.log, "X", 1)
    rows[at]["epoch"] = 2
    world.expectations = (ALL,)
    mirror(world)

    count = sum(row["instrument"] == "X" for _, rows in world.log for row in rows) - 1
    assert world.report().sequenced.count(Violation.SEQUENCE_REVERSALS) == count


def test_a_view_without_epochs_cannot_be_judged_when_they_change() -> None:
    world = clean_world()
    rows, at = locate(world.log, "X", 1)
    rows[at]["epoch"] = 2

    with pytest.raises(ValueError, match="select `epoch` too"):
        world.report()


def test_an_event_nobody_published_is_unexpected() -> None:
    world = clean_world()
    world.log.append((0, [trade("NEW", 1, price=170)]))

    assert found(world.report(from_first=True)) == {"sequenced": {"unexpected": 1}}


def test_an_event_that_the_log_changed_is_missing_and_something_unexpected_is_there() -> None:
    world = clean_world()
    rows, at = locate(world.log, "A", 3)
    rows[at] = rows[at] | {"size": 101}
    mirror(world)

    streams = found(world.report(from_first=True))

    assert streams["sequenced"] == streams["all"] == {"missing": 1, "unexpected": 1}


def test_events_of_other_sources_count_for_sequences_only() -> None:
    world = clean_world()
    last = max(row["sequence"] for _, rows in world.log for row in rows if row["instrument"] == "X")
    foreign = trade("X", 1, price=100) | {"source": "elsewhere", "sequence": last + 1}
    world.log.append((1, [foreign]))
    frame = world.views["all"][-1]
    world.views["all"].append(
        replace(frame, rows=[foreign], message_id=99, properties=after(frame.properties, 1))
    )
    assert found(world.report(from_first=True)) == {}

    foreign["sequence"] += 1
    assert found(world.report(from_first=True)) == {"sequenced": {"sequence_gaps": 1}}


def test_events_of_before_the_run_may_still_arrive_from_a_view() -> None:
    """Sequenced before the log was recorded; those that claim to be of this run are invented."""
    world = clean_world()
    for _, rows in world.log:
        for row in rows:
            row["sequence"] += 10
    mirror(world)
    early = trade("X", 1, price=170) | {"source": "yesterday", "sequence": 3}
    frame = world.views["all"][-1]
    world.views["all"].append(
        replace(frame, rows=[early], message_id=99, properties=after(frame.properties, 1))
    )
    assert found(world.report()) == {}

    early["source"] = "made-up"
    assert found(world.report()) == {"all": {"unexpected": 1}}


def test_an_instrument_in_another_partition_than_accepted_is_found() -> None:
    world = clean_world()
    _, rows = world.log[-1]
    world.log[-1] = (0, rows)

    assert found(world.report(from_first=True)) == {"sequenced": {"wrong_partition": 4}}


def test_an_event_that_a_view_lost_is_missing_there() -> None:
    world = clean_world()
    frame = world.views["all"][4]
    lost = frame.rows.pop(1)

    report = world.report(from_first=True)

    assert found(report) == {"all": {"missing": 1, "wrong_count": 1, "delivery_gaps": 1}}
    assert (
        report.views["all"]
        .samples[Violation.MISSING][0]
        .startswith(f"{lost['instrument']} source sequence {lost['source_sequence']}")
    )


def test_a_frame_that_a_view_lost_is_missing_and_a_delivery_gap() -> None:
    world = clean_world()
    del world.views["all"][10]

    assert found(world.report(from_first=True)) == {"all": {"missing": 4, "delivery_gaps": 4}}


def test_a_first_frame_that_a_new_view_lost_is_a_delivery_gap() -> None:
    world = clean_world()
    world.expectations = (replace(ALL, from_first=True),)
    assert found(world.report()) == {}

    del world.views["all"][0]
    assert found(world.report()) == {"all": {"missing": 4, "delivery_gaps": 4}}


def test_a_frame_that_a_view_holds_twice_is_doubled() -> None:
    world = clean_world()
    frames = world.views["all"]
    last = [frame for frame in frames if frame.partition == 0][-1]
    frames.append(
        replace(frames[0], message_id=99, properties=after(last.properties, len(frames[0].rows)))
    )

    assert found(world.report(from_first=True))["all"]["duplicates"] == 4


def test_a_frame_under_a_delivery_sequence_that_was_used_is_a_repeat() -> None:
    world = clean_world()
    frames = world.views["all"]
    frames.append(replace(frames[-1], message_id=99))

    assert found(world.report(from_first=True)) == {"all": {"duplicates": 4, "delivery_repeats": 4}}


def test_a_message_received_again_under_its_id_is_a_redelivery_and_no_violation() -> None:
    world = clean_world()
    world.views["all"].insert(6, world.views["all"][4])

    report = world.report(from_first=True)

    assert found(report) == {}
    assert report.views["all"].redelivered == 1


def test_frames_of_a_view_that_changed_places_are_out_of_order() -> None:
    world = clean_world()
    frames = [frame for frame in world.views["all"] if frame.partition == 1]
    first, second = frames[3], frames[4]
    first.rows, second.rows = second.rows, first.rows

    counted = found(world.report(from_first=True))

    assert list(counted) == ["all"]
    assert list(counted["all"]) == ["out_of_order"]
    assert 1 <= counted["all"]["out_of_order"] <= 4


def test_an_event_that_does_not_belong_in_a_view_is_unexpected() -> None:
    world = clean_world()
    stray = next(row for _, rows in world.log for row in rows if row["price"] >= 150)
    frame = world.views["cheap"][-1]
    world.views["cheap"].append(
        replace(frame, rows=[stray], message_id=99, properties=after(frame.properties, 1))
    )

    assert found(world.report(from_first=True)) == {"cheap": {"unexpected": 1}}


@pytest.mark.parametrize(("column", "value"), [("price", 101), ("side", "short"), ("price", None)])
def test_a_value_that_a_view_changed_is_altered(column: str, value: Any) -> None:
    world = clean_world()
    row = world.views["cheap"][3].rows[0]
    row[column] = value if row[column] != value else 102

    report = world.report(from_first=True)

    assert found(report) == {"cheap": {"altered": 1}}


def test_a_column_that_a_view_leaves_out_alters_its_events() -> None:
    world = clean_world()
    world.expectations = (ALL, replace(CHEAP, select=("instrument", "sequence", "price")))
    history = world.history()
    history.views["cheap"] = CHEAP
    world.expectations = (ALL, CHEAP)
    full = clean_world().history()
    full.received["cheap"] = history.received["cheap"]

    report = check(full)

    assert found(report) == {"cheap": {"altered": report.views["cheap"].expected}}


def test_a_computed_column_must_hold_what_is_expected_of_it() -> None:
    world = clean_world()
    doubled = replace(
        CHEAP, computed={"double": lambda batch, _kind: pc.multiply(batch.column("price"), 2)}
    )
    world.expectations = (ALL, doubled)
    for frame in world.views["cheap"]:
        frame.rows[:] = [row | {"double": 2 * row["price"]} for row in frame.rows]
    assert found(world.report(from_first=True)) == {}

    world.views["cheap"][3].rows[0]["double"] += 1

    assert found(world.report(from_first=True)) == {"cheap": {"altered": 1}}


def test_a_plan_that_falls_is_found() -> None:
    world = clean_world()
    frame = [f for f in world.views["all"] if f.partition == 0][-1]
    frame.properties["plan"] = "2"

    report = world.report(from_first=True)

    assert found(report) == {"all": {"plan_reversals": 1}}
    assert "plan 2 after plan 5" in report.text()


def test_a_delivery_epoch_starts_again_at_1_and_never_falls() -> None:
    world = clean_world()
    frames = [frame for frame in world.views["all"] if frame.partition == 0]
    for at, frame in enumerate(frames[20:]):
        frame.properties |= {"delivery_epoch": "77", "delivery_sequence": str(4 * at + 1)}
    told = {"kind": "epoch", "reason": "trimmed", "delivery_epoch": "77", "delivery_sequence": "1"}
    opening = replace(frames[20], rows=[], message_id=99, properties=told | {"count": "0"})
    world.views["all"].insert(world.views["all"].index(frames[20]), opening)
    assert found(world.report(from_first=True)) == {}

    frames[-1].properties["delivery_epoch"] = "0"
    assert found(world.report(from_first=True)) == {"all": {"delivery_repeats": 4}}


def test_a_view_that_joins_midway_must_hold_everything_from_its_first_event_on() -> None:
    world = clean_world()
    world.expectations = (replace(ALL, joins_midway=True),)
    world.views["all"] = world.views["all"][30:]
    assert found(world.report()) == {}
    assert world.report().views["all"].expected == 120

    del world.views["all"][8]
    assert found(world.report()) == {"all": {"missing": 4, "delivery_gaps": 4}}


def test_a_view_that_joins_too_late_misses_what_was_published_before() -> None:
    world = clean_world()
    world.expectations = (replace(ALL, joins_midway=True),)
    late = world.views["all"][-2:]
    world.views["all"] = late

    held = [row for frame in late for row in frame.rows]
    since = min(row["ts_publish"] for row in held) - 3
    missing = sum(row["ts_publish"] >= since for _, rows in world.accepted for row in rows) - len(
        held
    )
    assert missing > 0
    assert found(world.report(required_after_ns={"all": since})) == {"all": {"missing": missing}}


def test_a_mark_of_the_sequencer_changes_no_event_but_another_flag_does() -> None:
    world = clean_world()
    rows, at = locate(world.log, "A", 3)
    rows[at] = rows[at] | {"quality_flags": 1 << 29}
    world.expectations = (ALL,)
    mirror(world)
    assert found(world.report(from_first=True)) == {}

    rows[at] = rows[at] | {"quality_flags": 1 << 29 | 1}
    changed = {"missing": 1, "unexpected": 1}
    assert found(world.report(from_first=True)) == {"sequenced": changed, "all": changed}
