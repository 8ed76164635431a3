"""Validation rules: what they say of events, against plain Python, and what is refused."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from events import trades
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from functions.operators.broken_rules import reason
from functions.operators.render import check, render
from functions.operators.sequence import InstrumentSequences, with_sequences
from marketdata.custom import Answer, Custom
from marketdata.filters import FilterError, compile_filter
from marketdata.filters import tree as t
from marketdata.frames import encode_frame, frame_kind, read_frame
from marketdata.plans import View, ViewSpec, view_of
from marketdata.positions import Position
from marketdata.reference import Joined
from marketdata.rules import FAILED_RULES, Rule, check_events, compile_rule
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import Transformation, TransformationError
from marketdata.view_history import ViewHistory

sys.path.insert(0, str(Path(__file__).parent / "filters"))

from oracle import evaluate, rows_of
from strategies import batches, conditions

IDS = ["033630689aea4de8"]
SEVERITIES = st.sampled_from(["drop", "mark", "dead-letter"])


def ruled_view(transformation: Transformation) -> View:
    transformation.validate()
    conditions = dict(transformation.conditions())
    return view_of(ViewSpec(transformation=transformation.canonical(), conditions=conditions))


def sequenced(names: list[str]) -> pa.RecordBatch:
    batch = trades(names)
    numbers = InstrumentSequences().assign(batch)
    return with_sequences(batch, "trade", numbers, epoch=1, ts_sequenced_ns=1)


@settings(max_examples=60)
@given(batches(), st.lists(st.tuples(conditions(1), SEVERITIES), min_size=1, max_size=3))
def test_an_event_breaks_a_rule_where_it_is_false_and_severities_decide(
    batch: pa.RecordBatch, given_rules: list[tuple[t.Expression, str]]
) -> None:
    rules = {f"r{n}": Rule("…", severity) for n, (_, severity) in enumerate(given_rules)}  # type: ignore[arg-type]
    trees = {f"r{n}": tree for n, (tree, _) in enumerate(given_rules)}
    checked = check_events(rules, trees, batch)
    events = rows_of(batch, frame_kind(batch))
    broken = {
        name: [row for row, event in enumerate(events) if evaluate(tree, event) is False]
        for name, tree in trees.items()
    }
    assert {name: rows.tolist() for name, rows in checked.broken.items()} == {
        name: rows for name, rows in broken.items() if rows
    }
    keeping = [rows for name, rows in broken.items() if rules[name].severity != "mark"]
    left = [row for row in range(len(events)) if not any(row in rows for rows in keeping)]
    assert (list(range(len(events))) if checked.rows is None else checked.rows.tolist()) == left
    marking = [name for name in sorted(rules) if rules[name].severity == "mark"]
    marks = [",".join(n for n in marking if row in broken[n]) or None for row in left]
    assert (None if checked.marks is None else checked.marks.to_pylist()) == (
        marks if marking else None
    )


@settings(max_examples=60)
@given(conditions(1))
def test_the_sql_of_a_rule_compiles_to_the_same_rule(tree: t.Expression) -> None:
    try:
        compiled = compile_rule(t.to_sql(tree))
    except FilterError:
        assume(False)
    else:
        assert compile_rule(t.to_sql(compiled)) == compiled


def test_rules_come_before_what_is_computed_and_the_custom_transformation() -> None:
    view = ruled_view(
        Transformation(
            select=("instrument", "sequence"),
            compute={"twice": "sequence * 2"},
            custom=Custom("c", {"n": "integer"}, 100),
            rules={
                "usual": Rule("instrument <> 'M'", "mark"),
                "early": Rule("sequence < 2", "mark"),
                "known": Rule("instrument <> 'X'", "drop"),
                "good": Rule("instrument <> 'Y'", "dead-letter"),
            },
        )
    )
    rows = sequenced(["X", "M", "A", "Y", "M", "A"])

    def but_the_first(_: View, batch: pa.RecordBatch) -> Answer:
        assert batch.column("instrument").to_pylist() == ["M", "A", "M", "A"]
        kept = pa.array([1, 2, 3], pa.int64()).to_numpy()
        return Answer(kept, (pa.array([7, 8, 9], pa.int64()),))

    rendered = render(view, rows, but_the_first, check(view, Joined(rows, {})))
    delivered = read_frame(rendered.messages[0])
    assert delivered.to_pylist() == [
        {"instrument": "A", "sequence": 1, "twice": 2, "n": 7, FAILED_RULES: None},
        {"instrument": "M", "sequence": 2, "twice": 4, "n": 8, FAILED_RULES: "early,usual"},
        {"instrument": "A", "sequence": 2, "twice": 4, "n": 9, FAILED_RULES: "early"},
    ]
    assert delivered.schema == view.transformation.schema(SEQUENCED_SCHEMAS["trade"])
    assert rendered.rows.num_rows == 3


def test_where_all_is_dropped_nothing_is_asked_and_there_is_no_message() -> None:
    view = ruled_view(
        Transformation(
            custom=Custom("absent", {}, 100), rules={"known": Rule("instrument = 'A'", "drop")}
        )
    )
    rows = sequenced(["X", "Y"])
    rendered = render(view, rows, checked=check(view, Joined(rows, {})))
    assert (rendered.rows.num_rows, rendered.messages) == (0, [])


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("", "no event can break it"),
        ("price > 0 OR TRUE", "no event can break it"),
        ("price > 2 AND price < 1", "no event can match"),
        ("prise > 0", "price"),
        ("instrument IN SET 'sp500'", "IN SET stands in filters only"),
        ("price +", "something is missing"),
    ],
)
def test_a_rule_that_says_nothing_is_refused_with_its_place(condition: str, says: str) -> None:
    with pytest.raises(FilterError, match=says) as raised:
        compile_rule(condition)
    assert raised.value.position is not None


def test_the_name_of_a_rule_does_not_end_with_a_new_line() -> None:
    rule = {"condition": "price > 0", "severity": "drop"}
    with pytest.raises(msgspec.ValidationError, match="matching regex"):
        msgspec.convert({"rules": {"positive\n": rule}}, Transformation)


def test_equal_rules_written_differently_are_one_view_and_none_is_as_before() -> None:
    one, other = (
        ruled_view(Transformation(rules={"r": Rule(sql, "drop")}))
        for sql in ("price>0.0 and size > 0", "size > 0 AND 0 < price")
    )
    assert one.id == other.id
    assert ruled_view(Transformation(rules={})).id == IDS[0]
    marking = ruled_view(Transformation(rules={"r": Rule("price > 0 AND size > 0", "mark")}))
    assert marking.id != one.id


@pytest.mark.parametrize(
    "taken",
    [
        Transformation(compute={FAILED_RULES: "1"}),
        Transformation(rename={"price": FAILED_RULES}),
        Transformation(custom=Custom("c", {FAILED_RULES: "text"}, 8)),
    ],
)
def test_the_column_of_marks_needs_its_name(taken: Transformation) -> None:
    taken.validate()
    for severity in ("mark", "drop"):
        rules = {"r": Rule("price > 0", severity)}  # type: ignore[arg-type]
        ruled = Transformation(
            rename=taken.rename, compute=taken.compute, custom=taken.custom, rules=rules
        )
        if severity == "drop":
            ruled.validate()
            continue
        with pytest.raises(TransformationError, match="give that one another name"):
            ruled.validate()


def test_a_reason_names_some_events_and_counts_all() -> None:
    rule = Rule("price > " + "1" * 300, "dead-letter")
    told = reason("good", rule, sequenced(["A", "B", "A", "B", "A", "B"]))
    assert told.endswith(" broken by 6 events: A 1, B 1, A 2, B 2, A 3, …")
    assert len(told) < 300


def test_what_is_read_again_from_the_log_is_what_the_rules_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = sequenced(["A", "X", "M"])
    log: Any = SimpleNamespace(data=lambda: encode_frame(batch).to_pybytes(), properties=dict)
    stretch = [(Position(1, 0, 0), None), (Position(1, 1, 0), log)]
    monkeypatch.setattr("marketdata.view_history.read_stretch", lambda *_, **__: stretch)
    rules = Transformation(rules={"known": Rule("instrument <> 'X'", "drop")})
    history = ViewHistory(None, "persistent://t/n/log", "sequence > 0", rules)
    [found] = history.missing_between(
        0,
        stretch[0][0].pack(),
        stretch[1][0].pack(),
        missing=2,
        shown=batch.slice(0, 0),
        deadline=1,
    )
    assert found.rows.column("instrument").to_pylist() == ["A", "M"]


def test_a_filter_that_takes_what_a_rule_leaves_takes_no_null() -> None:
    """A rule is no filter: nothing speaks against an event without the column."""
    batch = sequenced(["A", "B"])
    condition = "bid_price > 0"
    view = ruled_view(Transformation(rules={"r": Rule(condition, "drop")}))
    assert check(view, Joined(batch, {})).rows is None
    assert compile_filter(condition).mask(batch).tolist() == [False, False]
