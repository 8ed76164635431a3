"""What a preview says agrees with what the functions' operators deliver by either plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from events import logs, trades
from hypothesis import given, settings
from hypothesis import strategies as st

from control_plane.domains.preview.comparison import Comparison, Effect, Pair
from control_plane.domains.subscriptions.schemas import SubscriptionCreate
from control_plane.domains.subscriptions.view_check import view_spec
from functions.operators.render import check, render
from functions.operators.route import Router
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.filters import UnknownSet
from marketdata.formats import get_format
from marketdata.frames import frame_kind, read_frame
from marketdata.mixed import mixed_batch
from marketdata.plans import Delivery, Plan, View, compile_plan, view_of
from marketdata.reference import Joined
from marketdata.rules import Rule
from marketdata.schemas import decimal_scale
from marketdata.transformations import Transformation
from marketdata.view_events import taken

FILTERS = [
    "",
    "instrument IN ('A', 'C')",
    "instrument IN SET 'some'",
    "instrument IN SET 'some' AND (kind = 'quote' OR price > 187.250000001)",
    "kind = 'quote' OR price > 187.250000001",
    "sequence BETWEEN 2 AND 3 AND venue = 'XNAS'",
]
TRANSFORMATIONS = [
    Transformation(),
    Transformation(select=("instrument", "sequence", "price", "bid_price")),
    Transformation(rename={"price": "px"}),
    Transformation(mask=("venue", "ts_event")),
    Transformation(compute={"x": "round(price * 2, 2)"}),
    Transformation(compute={"x": "price * 2"}),
    Transformation(rules={"few": Rule("sequence < 3", "drop")}),
    Transformation(rules={"few": Rule("sequence < 3", "mark")}),
]
DELIVERIES = [Delivery(), Delivery(compression="lz4"), Delivery(kinds="together")]

Key = tuple[str, int, int]
Delivered = dict[Key, tuple[str, dict[str, Any]]]
"""By instrument, epoch and sequence: the kind and the values of an event."""


def view(sql: str, transformation: Transformation, delivery: Delivery) -> View:
    asked = SubscriptionCreate(
        "c", "n", filter=sql, transformation=transformation, delivery=delivery
    )
    return view_of(view_spec(asked))


def sequenced(instruments: str) -> pa.RecordBatch:
    """Trades at rising prices from 187.25 on, one of each instrument."""
    batch = trades(list(instruments))
    numbers = InstrumentSequences().assign(batch)
    return with_sequences(batch, "trade", numbers, epoch=1, ts_sequenced_ns=1)


@lru_cache
def chosen(filter_: int, transformation: int, delivery: int) -> View:
    return view(FILTERS[filter_], TRANSFORMATIONS[transformation], DELIVERIES[delivery])


VIEWS = st.builds(
    chosen,
    *(st.integers(0, len(each) - 1) for each in (FILTERS, TRANSFORMATIONS, DELIVERIES)),
)
SETS = st.builds(lambda held: {"some": sorted(held)}, st.sets(st.sampled_from("ABCD")))


def delivered(log: Sequence[pa.RecordBatch], plan: Plan) -> dict[str, Delivered]:
    """What the functions' operators make of a log, by view."""
    router = Router(plan)
    found: dict[str, Delivered] = {view.id: {} for view in plan.views}
    for batch in log:
        kind = frame_kind(batch)
        for together in (False, True):
            for one, numbers in router.route(batch, kind, together=together):
                rows = batch if numbers is None else taken(batch, numbers)
                if together:
                    rows = mixed_batch([(kind, rows)])
                checked = check(one, Joined(rows, {}))
                sent = render(one, rows, checked=checked)
                if not sent.messages:
                    continue
                [message] = map(read_frame, sent.messages)
                events = message.to_pylist()
                scales = {field.name: decimal_scale(field) for field in message.schema}
                keys = sent.rows.select(["instrument", "epoch", "sequence"]).to_pylist()
                for key, event in zip(keys, events, strict=True):
                    values = {name: (event[name], scales[name]) for name in event}
                    found[one.id][tuple(key.values())] = (kind, values)
    return found


def counted(comparison: Comparison, effect: Effect) -> tuple[Counter[str], Counter[str]]:
    return effect.by_kind, Counter(dict(comparison.top(effect, 100)))


def expected(keys: set[Key], events: Delivered) -> tuple[Counter[str], Counter[str]]:
    return Counter(events[key][0] for key in keys), Counter(key[0] for key in keys)


@given(st.lists(st.tuples(VIEWS, VIEWS), min_size=1, max_size=3), SETS, SETS, logs(frames=4))
@settings(max_examples=60, deadline=None)
def test_what_appears_vanishes_and_changes_is_what_the_operators_say(
    views: list[tuple[View, View]],
    sets_before: Mapping[str, list[str]],
    sets_after: Mapping[str, list[str]],
    log: list[pa.RecordBatch],
) -> None:
    pairs = {f"{old.id}/{new.id}": Pair(old, new) for old, new in views}
    comparison = Comparison(pairs, sets_before, sets_after, samples=100)
    for batch in log:
        comparison.add(batch, frame_kind(batch))
    now = delivered(
        log, compile_plan(1, [old for old, _ in views], created_at_ns=1, sets=sets_before)
    )
    then = delivered(
        log, compile_plan(2, [new for _, new in views], created_at_ns=1, sets=sets_after)
    )
    for old, new in views:
        before, after = now[old.id], then[new.id]
        outcome = comparison.outcomes[f"{old.id}/{new.id}"]
        assert outcome.failed is None
        assert (outcome.before, outcome.after) == (len(before), len(after))
        both = before.keys() & after.keys()
        columns: Counter[str] = Counter()
        changed = set()
        for key in both:
            (_, was), (_, would) = before[key], after[key]
            differing = [
                name
                for name in was.keys() | would.keys()
                if was.get(name, ()) != would.get(name, ())
            ]
            columns.update(differing)
            changed |= {key} if differing else set()
        assert counted(comparison, outcome.appear) == expected(after.keys() - both, after)
        assert counted(comparison, outcome.vanish) == expected(before.keys() - both, before)
        assert counted(comparison, outcome.change) == expected(changed, before)
        assert outcome.change.columns == columns
        sampled = {
            fate: {(s.instrument, s.epoch, s.sequence) for s in effect.samples}
            for fate, effect in vars(outcome).items()
            if isinstance(effect, Effect)
        }
        assert sampled == {
            "appear": after.keys() - both,
            "vanish": before.keys() - both,
            "change": changed,
        }


@given(VIEWS, SETS, logs(frames=4))
@settings(max_examples=30, deadline=None)
def test_a_subscription_that_is_made_shows_all_and_one_that_ends_loses_all(
    one: View, sets: Mapping[str, list[str]], log: list[pa.RecordBatch]
) -> None:
    pairs = {"new": Pair(None, one), "old": Pair(one, None), "same": Pair(one, one)}
    comparison = Comparison(pairs, sets, sets, samples=2)
    for batch in log:
        comparison.add(batch, frame_kind(batch))
    found = delivered(log, compile_plan(1, [one], created_at_ns=1, sets=sets))[one.id]
    new, old, same = (comparison.outcomes[name] for name in pairs)
    assert counted(comparison, new.appear) == expected(set(found), found)
    assert counted(comparison, old.vanish) == expected(set(found), found)
    assert (new.vanish.events, new.change.events, old.appear.events) == (0, 0, 0)
    assert [same.appear.events, same.vanish.events, same.change.events] == [0, 0, 0]
    assert (same.before, same.after) == (len(found), len(found))
    for sample in new.appear.samples + old.vanish.samples:
        shown = sample.after or sample.before
        kind, values = found[sample.instrument, sample.epoch, sample.sequence]
        assert shown is not None
        assert set(shown) == {"kind", *values}
        assert shown["kind"] == kind
        assert len(new.appear.samples) == min(2, len(found))


def test_samples_are_told_as_json_delivers_them() -> None:
    batch = sequenced("AB")
    plain = view("", Transformation(), Delivery())
    priced = view("price > 187.25", Transformation(rename={"price": "px"}), Delivery())
    comparison = Comparison({"p": Pair(plain, priced)}, {}, {}, samples=1)
    comparison.add(batch, "trade")
    outcome = comparison.outcomes["p"]
    [gone], [other] = outcome.vanish.samples, outcome.change.samples
    first, second = get_format("json").encode(batch).splitlines()
    assert (gone.before, gone.after) == (msgspec.json.decode(first), None)
    assert other.before == msgspec.json.decode(second)
    assert other.after is not None
    assert other.after["px"] == "187.250000001"
    assert outcome.change.columns == {"price": 1, "px": 1}


def test_a_set_that_is_not_there_is_told() -> None:
    one = view(FILTERS[2], Transformation(), Delivery())
    with pytest.raises(UnknownSet):
        Comparison({"p": Pair(one, None)}, {}, {}, samples=0)


def test_a_view_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = view("", TRANSFORMATIONS[4], Delivery())
    good = view("", Transformation(), Delivery())
    batch = sequenced("A")

    def fails(*_: Any) -> pa.RecordBatch:
        raise ValueError("no")

    monkeypatch.setattr(Transformation, "apply", fails)
    pairs = {"bad": Pair(good, bad), "good": Pair(None, good)}
    comparison = Comparison(pairs, {}, {}, samples=0)
    comparison.add(batch, "trade")
    assert comparison.outcomes["bad"].failed == "ValueError: no"
    assert comparison.outcomes["good"].appear.events == 1
    assert comparison.outcomes["good"].failed is None
