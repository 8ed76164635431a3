"""An explanation takes the rules of a consumer one after the other, up to the one that decides."""

from __future__ import annotations

import pytest
from events import trades

from control_plane.domains.explain.ruling import priority, ruling
from control_plane.domains.rules.policy import Rule, Selected
from marketdata.filters import compile_filter
from marketdata.plans import Delivery, ViewSpec
from marketdata.routing_rules import Effect, Selector


def selected(name: str, effect: Effect, sql: str, given: int | None = None) -> Selected:
    condition = compile_filter(sql)
    rule = Rule(
        name, name, "", sql, condition, None, None, Selector(), effect, enabled=True, priority=given
    )
    return Selected(rule, condition)


def test_the_first_rule_that_matches_is_the_last_that_is_told() -> None:
    event = trades(["A"], venue=["XNAS"])
    rules = [
        (2, selected("elsewhere", "deny", "venue = 'XETR'")),
        (3, selected("unknown", "deny", "bid_price > 1")),
        (4, selected("first", "prioritize", "venue = 'XNAS'", 3)),
        (5, selected("mine", "allow", "instrument IN SET 'mine' AND venue = 'XNAS'")),
        (6, selected("last", "deny", "")),
    ]
    told = ruling(rules, event, {"mine": ["A"]})
    assert [(each.name, each.position, each.matches) for each in told] == [
        ("elsewhere", 2, False),
        ("unknown", 3, False),
        ("mine", 5, True),
    ]
    assert told[0].parts is not None
    assert told[0].parts["columns"] == {"venue": "XNAS"}
    assert told[1].parts is not None
    assert told[1].parts["value"] is None
    assert told[2].parts is not None
    assert [part["value"] for part in told[2].parts["parts"]] == [True, True]


def test_a_set_that_is_gone_leaves_a_rule_unknown_and_the_next_one_decides() -> None:
    rules = [
        (1, selected("gone", "deny", "instrument IN SET 'gone'")),
        (2, selected("last", "deny", "")),
    ]
    told = ruling(rules, trades(["A"]), {})
    assert [(each.matches, each.parts is None) for each in told] == [(None, True), (True, False)]


RANKED = [
    (1, selected("no", "deny", "venue = 'XLON'")),
    (2, selected("bars", "prioritize", "kind = 'bar'", 0)),
    (3, selected("big", "prioritize", "price > 100", 2)),
    (5, selected("trades", "prioritize", "kind = 'trade'", 3)),
    (6, selected("rest", "prioritize", "", 0)),
]


@pytest.mark.parametrize(
    ("sql", "delivery", "given", "covers", "told"),
    [
        (
            "kind = 'trade'",
            Delivery(priority=3),
            3,
            ["none", "some", "every"],
            "rule 'trades' gives it",
        ),
        ("kind = 'bar'", Delivery(priority=0), 0, ["every"], "rule 'bars' gives it"),
        ("", Delivery(delay_seconds=900), 1, ["some", "some", "some", "every"], "delayed"),
        ("", Delivery(follows="analysis"), 1, ["some", "some", "some", "every"], "follows a"),
    ],
)
def test_a_priority_is_told_with_the_rule_that_gives_it_and_those_that_do_not(
    sql: str, delivery: Delivery, given: int, covers: list[str], told: str
) -> None:
    condition = compile_filter(sql)
    view = ViewSpec(condition.canonical, condition.to_json(), delivery=delivery)
    found = priority(view, RANKED)
    assert (found.priority, [rule.covers for rule in found.rules]) == (given, covers)
    assert [rule.position for rule in found.rules] == [2, 3, 5, 6][: len(covers)]
    assert told in found.reason


def test_it_is_told_which_rules_only_some_events_of_a_view_match() -> None:
    found = priority(ViewSpec(), RANKED[:-1])
    assert found.priority == 1
    assert "'bars', 'big', 'trades'" in found.reason
    assert priority(ViewSpec(), RANKED[:1]).rules == []
