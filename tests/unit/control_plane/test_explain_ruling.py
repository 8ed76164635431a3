"""An explanation takes the rules of a consumer one after the other, up to the one that decides."""

from __future__ import annotations

from events import trades

from control_plane.domains.explain.ruling import ruling
from control_plane.domains.rules.policy import Rule, Selected
from marketdata.filters import compile_filter
from marketdata.routing_rules import Effect, Selector


def selected(name: str, effect: Effect, sql: str) -> Selected:
    condition = compile_filter(sql)
    rule = Rule(name, name, "", sql, condition, None, None, Selector(), effect, enabled=True)
    return Selected(rule, condition)


def test_the_first_rule_that_matches_is_the_last_that_is_told() -> None:
    event = trades(["A"], venue=["XNAS"])
    rules = [
        (2, selected("elsewhere", "deny", "venue = 'XETR'")),
        (3, selected("unknown", "deny", "bid_price > 1")),
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
