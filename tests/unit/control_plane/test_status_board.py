"""The status board tells what runs now, from reports that may be old, repeated or newer than us."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from control_plane.domains.functions.service import FRESH_FOR_NS, StatusBoard
from control_plane.errors import NotFoundError

NOW_NS = 1_800_000_000_000_000_000


def report(instance: int, **members: Any) -> bytes:
    body = {"function": "distributor", "instance": instance, "reported_at_ns": NOW_NS} | members
    return msgspec.json.encode(body)


@pytest.fixture
def board() -> StatusBoard:
    return StatusBoard(now_ns=lambda: NOW_NS)


def test_a_plan_is_applied_when_every_expected_instance_runs_it(board: StatusBoard) -> None:
    board.expected = {"distributor": 2}
    board.take(report(0, plan=5))
    assert not board.progress(5).complete
    board.take(report(1, plan=6))
    assert board.progress(5).complete
    assert (board.progress(6).applied, board.progress(6).expected) == (1, 2)


def test_an_instance_that_fell_silent_does_not_count(board: StatusBoard) -> None:
    board.expected = {"distributor": 1}
    board.take(report(0, plan=5, reported_at_ns=NOW_NS - FRESH_FOR_NS - 1))
    assert board.progress(5).applied == 0
    described = board.describe("distributor")
    assert described.reporting_instances == 0
    assert [instance.fresh for instance in described.instances] == [False]


def test_counters_are_summed_over_instances(board: StatusBoard) -> None:
    board.take(report(0, counters={"events_in": 3, "events_out": 1}))
    board.take(report(1, counters={"events_in": 4}))
    assert board.describe("distributor").counters == {"events_in": 7, "events_out": 1}


def test_an_older_report_never_replaces_a_newer_one(board: StatusBoard) -> None:
    board.take(report(0, plan=5))
    board.take(report(0, plan=4, reported_at_ns=NOW_NS - 1))
    assert board.describe("distributor").plan == 5


def test_members_unknown_here_are_ignored_and_rubbish_is_refused(board: StatusBoard) -> None:
    board.take(report(0, brand_new={"x": 1}))
    with pytest.raises(msgspec.DecodeError):
        board.take(b"{")
    with pytest.raises(NotFoundError):
        board.describe("nobody")


def test_what_was_never_deployed_is_listed_all_the_same(board: StatusBoard) -> None:
    board.expected = {"sequencer": 2}
    board.note_cluster("sequencer", expected=2, running=0, state="not deployed", detail="deploy")
    (function,) = board.listing().items
    assert (function.name, function.expected_instances) == ("sequencer", 2)
    assert function.cluster is not None
    assert function.cluster.state == "not deployed"


def test_a_plan_is_applied_when_the_functions_of_all_lanes_run_it(board: StatusBoard) -> None:
    board.expected = {"distributor": 1, "distributor-high": 1, "sequencer": 1}
    board.lanes = {"": "distributor", "priority-3": "distributor-high"}
    board.take(report(0, plan=5))
    assert (board.progress(5).applied, board.progress(5).expected) == (1, 2)
    assert board.least_plan() is None
    board.take(report(0, plan=4, function="distributor-high"))
    assert not board.progress(5).complete
    assert board.progress(4).complete
    assert board.least_plan() == 4
    assert [each.function for each in board.plan_reports()] == ["distributor", "distributor-high"]


def test_a_lane_runs_once_its_function_was_seen(board: StatusBoard) -> None:
    board.lanes = {"": "distributor", "conflated": "conflator"}
    board.take(report(0))
    assert board.lanes_running() == {""}
    board.take(report(0, function="conflator"))
    assert board.lanes_running() == {"", "conflated"}
