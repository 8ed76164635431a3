"""What is a frame's own fault in the distributor, and what is not."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pulsar
import pyarrow as pa
import pytest
from distributing import KEEPING, filtered, frame, inputs, ruled, told
from msgspec import UNSET
from msgspec.structs import replace

from functions.distributor import DistributorStage
from functions.operators.route import Router
from functions.runtime.inputs import Input
from functions.runtime.settings import FunctionSettings, Topics
from marketdata.custom import Custom, registry
from marketdata.filters.columns import FrameColumns
from marketdata.filters.evaluate import holds
from marketdata.filters.tree import columns_of
from marketdata.frames import encode_frame, read_frame
from marketdata.mixed import mixed_batch
from marketdata.plans import Delivery, View, ViewSpec, compile_plan, view_of
from marketdata.transformations import Transformation


def test_an_instance_that_is_being_ended_blames_no_frame() -> None:
    """Python refuses new work to its thread pools while it ends; the worker may go on a moment."""
    openers = ThreadPoolExecutor(1)
    openers.shutdown()
    sent: list[Any] = []
    function: Any = SimpleNamespace(
        name="distributor",
        settings=FunctionSettings(Topics(deadletter="persistent://t/n/dead"), partitions=1),
        reporter=SimpleNamespace(counters=Counter()),
        router=Router(compile_plan(1, [ViewSpec()], created_at_ns=1)),
        openers=openers,
        client=None,
        send=lambda *given, **_: sent.append(given),
    )
    stage = DistributorStage(function, 0)
    item = Input(pulsar.MessageId(0, 1, 1), frame(), {"kind": "trade"})

    with pytest.raises(RuntimeError, match="shutdown"):
        stage.apply([item])

    assert sent == []
    assert function.reporter.counters["render_failures"] == 0


@pytest.mark.parametrize("kinds", [UNSET, "together"])
@pytest.mark.parametrize("term", ["size + 1 > 0", "instrument <> 'X' AND size + 1 > 0"])
@pytest.mark.parametrize("indexed", ["", "instrument IN ('A', 'B', 'C', 'D') AND "])
def test_a_filter_that_fails_costs_only_its_own_view(
    monkeypatch: pytest.MonkeyPatch, indexed: str, term: str, kinds: Any
) -> None:
    """Merged or one by one, as it may be after a crash: the same messages and dead letters."""

    def fails_on_c(node: Any, columns: FrameColumns) -> Any:
        text = columns.texts("instrument")
        if "size" in columns_of(node) and "C" in text.values.take(text.codes).to_pylist():
            raise ArithmeticError("beyond me")
        return holds(node, columns)

    monkeypatch.setattr("marketdata.filters.index.holds", fails_on_c)
    specs = [
        replace(spec, delivery=Delivery(kinds=kinds))
        for spec in (ViewSpec(), filtered("instrument <> 'D'"), filtered(indexed + term))
    ]
    plan = compile_plan(1, specs, created_at_ns=1)
    everything, others, failing = (view_of(spec) for spec in specs)
    frames = (["A"], ["B", "C"], ["D"])
    items = [
        Input(pulsar.MessageId(0, n, 0), frame(names), {"kind": "trade"})
        for n, names in enumerate(frames, start=1)
    ]

    merged, single = told([items], plan), told([[item] for item in items], plan)

    def messages(view: View, found: list[tuple[str, int, str]]) -> list[str]:
        return [what for topic, _, what in found if view.topic in topic]

    for found in (merged, single):
        assert messages(failing, found) == ["['A']", "['D']"]
        [letter] = [(place, what) for topic, place, what in found if "dead" in topic]
        assert letter == (items[1].position, f"view {failing.id}: ArithmeticError: beyond me")
        assert messages(everything, found) == ["['A']", "['B', 'C']", "['D']"]
        assert messages(others, found) == ["['A']", "['B', 'C']"]
    assert merged == single


def test_kinds_that_take_turns_share_a_message_where_that_is_asked_for() -> None:
    together, apart = ViewSpec(delivery=Delivery(kinds="together")), ViewSpec()
    plan = compile_plan(1, [together, apart], created_at_ns=1)
    items = [
        Input(pulsar.MessageId(0, n, 0), frame([name], kind), {"kind": kind})
        for n, (kind, name) in enumerate(
            [("trade", "A"), ("quote", "B"), ("trade", "C"), ("quote", "D")], start=1
        )
    ]

    found = told([items], plan)

    def messages(spec: ViewSpec) -> list[tuple[int, str]]:
        return [(place, what) for topic, place, what in found if view_of(spec).topic in topic]

    assert messages(together) == [(items[-1].position, "['A', 'B', 'C', 'D']")]
    assert messages(apart) == [
        (item.position, f"['{name}']") for item, name in zip(items, "ABCD", strict=True)
    ]


def only_plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """A custom transformation that leaves X out and fails on Y."""
    names = batch.column("instrument").to_pylist()
    if "Y" in names:
        raise ArithmeticError("beyond me")
    rows = [row for row, name in enumerate(names) if name != "X"]
    return batch.select(["instrument", "epoch", "sequence"]).take(pa.array(rows, pa.int64()))


@pytest.fixture
def custom_spec(monkeypatch: pytest.MonkeyPatch) -> ViewSpec:
    plain = SimpleNamespace(
        name="plain", description="Plain ones.", columns={}, max_rows=32_768, apply=only_plain
    )
    point: Any = SimpleNamespace(name="plain", value="plain", load=lambda: lambda: plain)
    loaded = registry.load([point])
    monkeypatch.setattr(registry, "installed", lambda: loaded)
    return ViewSpec(transformation=Transformation(custom=Custom("plain", {}, 32_768)))


def test_a_custom_transformation_costs_only_its_own_view(custom_spec: ViewSpec) -> None:
    """What it fails on is kept with the reason; rows that it leaves out are no message."""
    plan = compile_plan(1, [ViewSpec(), custom_spec], created_at_ns=1)
    everything, custom = view_of(ViewSpec()), view_of(custom_spec)
    items = inputs((["A", "X"], ["B", "Y"], ["X"], ["C"]))
    reason = "CustomFailed: custom transformation 'plain' failed: ArithmeticError: beyond me"
    for distribution in ([items], [[item] for item in items]):
        found = told(distribution, plan)
        assert [what for topic, _, what in found if custom.topic in topic] == ["['A']", "['C']"]
        others = "".join(what for topic, _, what in found if everything.topic in topic)
        assert re.findall("[A-Z]", others) == ["A", "X", "B", "Y", "X", "C"]
        [letter] = [(place, what) for topic, place, what in found if "dead" in topic]
        assert letter == (items[1].position, f"view {custom.id}: {reason}")


def test_what_is_cut_off_is_kept_and_its_neighbours_stay_merged(custom_spec: ViewSpec) -> None:
    plan = compile_plan(1, [ViewSpec(), custom_spec], created_at_ns=1)
    everything, custom = view_of(ViewSpec()), view_of(custom_spec)
    items = inputs([["Y"]] * 6)
    found = told([[items[0]], [items[1]], [items[2]], items[3:]], plan)
    letters = [(place, what) for topic, place, what in found if "dead" in topic]
    assert [place for place, _ in letters] == [item.position for item in items]
    assert ["is cut off and was not asked" in what for _, what in letters] == [False] * 3 + [
        True
    ] * 3
    assert all("ArithmeticError: beyond me" in what for _, what in letters)
    assert not [topic for topic, _, _ in found if custom.topic in topic]
    messages = [what for topic, _, what in found if everything.topic in topic]
    assert messages == ["['Y']"] * 3 + ["['Y', 'Y', 'Y']"]


@pytest.mark.parametrize("kinds", ["apart", "together"])
@pytest.mark.parametrize("by_one", [True, False])
def test_what_breaks_rules_is_counted_and_kept_and_the_rest_delivered(
    by_one: bool, kinds: Any
) -> None:
    spec = ruled(Delivery(kinds=kinds), **KEEPING)
    plan = compile_plan(1, [ViewSpec(), spec], created_at_ns=1)
    everything, view = view_of(ViewSpec()), view_of(spec)
    items = inputs((["A", "X"], ["B", "Y", "M", "Y"], ["X"], ["Y"], ["C"]), kinds)
    counters: Counter[str] = Counter()
    # Given again, as when the plan changes, nothing is counted or told again.
    distribution = [[item] for item in items] if by_one else [items]
    found = told([*distribution, items], plan, counters)
    delivered = "".join(what for topic, _, what in found if view.topic in topic)
    assert re.findall("[A-Z]", delivered) == ["A", "B", "M", "C"]
    others = "".join(what for topic, _, what in found if everything.topic in topic)
    assert len(re.findall("[A-Z]", others)) == 9
    letters = [(place, what) for topic, place, what in found if "dead" in topic]
    rule = f"view {view.id}: rule 'good' (instrument <> 'Y') broken by"
    assert letters == [
        (items[1].position, f"{rule} 2 events: Y 1, Y 2"),
        (items[3].position, f"{rule} 1 events: Y 1"),
    ]
    of_rules = {name: n for name, n in counters.items() if name.startswith("rule_")}
    assert of_rules == {
        f"rule_known_of_{view.id}": 2,
        f"rule_good_of_{view.id}": 3,
        f"rule_usual_of_{view.id}": 1,
    }


@pytest.mark.parametrize("kinds", ["apart", "together"])
def test_what_rules_keep_is_found_again_when_only_its_letter_was_lost(
    monkeypatch: pytest.MonkeyPatch, kinds: Any
) -> None:
    """A crash between the view's message and the letter: the view has the input, and yet."""
    monkeypatch.setattr("functions.runtime.outputs.TRIMMED_TIMEOUT_S", 0.0)
    spec = ruled(Delivery(kinds=kinds), **KEEPING)
    plan = compile_plan(1, [spec], created_at_ns=1)
    items = inputs((["A", "Y"], ["B"]), kinds)
    found = told([items], plan, last=items[1].position)
    assert found == [
        (
            "persistent://t/n/dead-partition-0",
            items[0].position,
            f"view {view_of(spec).id}: rule 'good' (instrument <> 'Y') broken by 1 events: Y 1",
        )
    ]


def test_rules_that_fail_cost_only_their_own_view(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ArithmeticError("beyond me")

    monkeypatch.setattr("marketdata.rules.holds", fails)
    monkeypatch.setattr("functions.runtime.outputs.TRIMMED_TIMEOUT_S", 0.0)
    spec = ruled(**KEEPING)
    plan = compile_plan(1, [ViewSpec(), spec], created_at_ns=1)
    items = inputs((["A"], ["B"]))
    for last in (-1, items[1].position):
        found = told([items], plan, last=last)
        letters = [what for topic, _, what in found if "dead" in topic]
        assert letters == [f"view {view_of(spec).id}: ArithmeticError: beyond me"] * 2


def test_a_frame_of_several_kinds_is_delivered_run_by_run_wherever_it_was_cut_off() -> None:
    runs = (("trade", "AY"), ("quote", "B"), ("trade", "YC"))
    batches = [(kind, read_frame(frame(tuple(names), kind))) for kind, names in runs]
    data = encode_frame(mixed_batch(batches)).to_pybytes()
    item = Input(pulsar.MessageId(0, 3, 0), data, {"kind": "mixed"})
    end = item.position
    view = ruled(good=KEEPING["good"])
    plan = compile_plan(1, [view], created_at_ns=1)

    counters: Counter[str] = Counter()
    whole = told([[item]], plan, counters)

    sent = [(place, rows) for topic, place, rows in whole if "dead" not in topic]
    assert sent == [(end - 4, "['A']"), (end - 2, "['B']"), (end, "['C']")]
    [letter] = [reason for topic, _, reason in whole if "dead" in topic]
    assert "rule 'good'" in letter
    assert counters[f"rule_good_of_{view_of(view).id}"] == 2
    for stored, (place, _) in enumerate(sent, start=1):
        again = told([[item]], plan, last=place)
        # An empty topic of somebody who has sent: the count begins anew there, which is told, too.
        rest = [(at, rows) for _, at, rows in again if rows.startswith("[")]
        assert rest == sent[stored:]
        # What was kept of it may not have been: it is kept once more, whatever the view has.
        assert [reason for topic, _, reason in again if "dead" in topic] == [letter]
