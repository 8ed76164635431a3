"""Every view has one lane, and every view of a plan is served by one function or by none."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketdata.filters import compile_filter
from marketdata.lanes import (
    DEFAULT_LANE,
    delay_of,
    followed_by,
    is_lane,
    lane_of,
    part_of,
    served_by,
    served_in,
)
from marketdata.plans import Delivery, View, ViewSpec, compile_plan, view_of

LANES = ("priority-0", "priority-2", "priority-3", "delay-2", "delay-900", "follows-a")

deliveries = st.builds(
    Delivery,
    priority=st.sampled_from([msgspec.UNSET, 0, 1, 2, 3]),
    delay_seconds=st.sampled_from([msgspec.UNSET, 0, 2, 900]),
    follows=st.sampled_from([msgspec.UNSET, "a", "a-delay-2", "delay-900"]),
)


def test_views_from_before_keep_their_names() -> None:
    named = view_of(ViewSpec()).id
    usual = ViewSpec(delivery=Delivery(priority=1, delay_seconds=0).canonical())
    assert msgspec.json.encode(usual.delivery) == b'{"compression":"none"}'
    assert view_of(usual).id == named == "033630689aea4de8"


def test_what_is_delayed_has_no_priority() -> None:
    assert Delivery(priority=3, delay_seconds=2).canonical() == Delivery(delay_seconds=2)
    assert Delivery(priority=3, follows="a").canonical() == Delivery(follows="a")


@given(deliveries)
def test_the_lane_follows_from_what_the_view_is_named_by(delivery: Delivery) -> None:
    lane = lane_of(delivery)
    assert lane == lane_of(delivery.canonical())
    both = delivery.follows and delivery.delay_seconds
    assert (lane == DEFAULT_LANE or is_lane(lane)) != bool(both)
    assert delay_of(lane) == (delivery.delay_seconds or 0)
    assert followed_by(lane) == (delivery.follows or "")


@given(st.lists(deliveries, max_size=8), st.sets(st.sampled_from(LANES)))
def test_each_view_is_served_by_one_function_or_waits_for_that_of_its_delay(
    wanted: list[Delivery], lanes: set[str]
) -> None:
    plan = compile_plan(
        7, [ViewSpec(delivery=each.canonical()) for each in wanted], created_at_ns=1
    )
    parts = {lane: part_of(plan, served_by(lane, lanes)) for lane in (DEFAULT_LANE, *lanes)}
    served = [view.id for part in parts.values() for view in part.views]
    waiting = [
        view.id
        for view in plan.views
        if (view.delivery.delay_seconds or view.delivery.follows)
        and lane_of(view.delivery) not in lanes
    ]
    assert sorted(served + waiting) == [view.id for view in plan.views]
    assert {(part.number, part.digest) for part in parts.values()} == {(7, plan.digest)}


def test_a_part_holds_what_its_views_name() -> None:
    def naming(name: str, delivery: Delivery) -> ViewSpec:
        found = compile_filter(f"instrument IN SET '{name}'")
        return ViewSpec(filter=found.canonical, predicate=found.to_json(), delivery=delivery)

    specs = [naming("fast", Delivery(priority=3)), naming("slow", Delivery())]
    plan = compile_plan(1, specs, created_at_ns=1, sets={"fast": ["A"], "slow": ["B"]})
    part = part_of(plan, served_by("priority-3"))
    assert part.sets == {"fast": ("A",)}
    assert part_of(plan, lambda _: True) is plan
    (view,) = part.views
    assert isinstance(view, View)


@given(deliveries, st.sets(st.sampled_from(LANES)))
def test_whoever_serves_a_view_is_among_those_that_may(delivery: Delivery, lanes: set[str]) -> None:
    (view,) = compile_plan(1, [ViewSpec(delivery=delivery.canonical())], created_at_ns=1).views
    there = {DEFAULT_LANE, *lanes}
    serving = {lane for lane in there if served_by(lane, lanes)(view)}
    assert serving <= set(served_in(lane_of(view.delivery), there))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "follows-",
        "follows-A",
        "follows-a+delay-2",
        "priority-1",
        "priority-4",
        "delay-0",
        "delay-09",
        "high",
    ],
)
def test_other_names_are_no_lanes(name: str) -> None:
    assert not is_lane(name)
