"""A router made from the one before routes as one made from nothing."""

from collections.abc import Sequence

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from events import batches
from hypothesis import given

from functions.operators.render import max_rows
from functions.operators.route import Router
from marketdata.filters import UnknownSet, compile_filter
from marketdata.frames import frame_kind
from marketdata.plans import Plan, View, ViewSpec, compile_plan

FILTERS = (
    "",
    "instrument IN SET 'mine'",
    "instrument IN SET 'mine' AND venue IN ('XNAS', 'XNYS')",
    "instrument IN SET 'other' OR price > 1",
    "instrument IN ('AAPL', 'MSFT') AND venue IN ('XNAS', 'A') AND venue IN ('XNAS', 'B')",
    "kind = 'trade' AND price > 2 AND price > 3",
    "venue IN ('XNAS', 'XETR') AND region = 'us' AND region = 'us'",
)
INSTRUMENTS = st.frozensets(st.sampled_from(["AAPL", "MSFT", "x"]))
Routed = dict[str, list[int] | None]


def plan(filters: Sequence[str], mine: frozenset[str], other: frozenset[str]) -> Plan:
    made = [compile_filter(sql) for sql in filters]
    specs = [ViewSpec(filter=one.canonical, predicate=one.to_json()) for one in made]
    return compile_plan(1, specs, created_at_ns=0, sets={"mine": mine, "other": other})


def routed(router: Router, batch: pa.RecordBatch) -> Routed:
    return {
        view.filter: None if rows is None else rows.tolist()
        for view, rows in router.route(batch, frame_kind(batch))
    }


@given(
    batches(sequenced=True),
    st.lists(st.sampled_from(FILTERS), unique=True),
    st.lists(st.sampled_from(FILTERS), unique=True),
    st.tuples(INSTRUMENTS, INSTRUMENTS, INSTRUMENTS, INSTRUMENTS),
)
def test_what_is_taken_over_changes_nothing(
    batch: pa.RecordBatch,
    one: list[str],
    other: list[str],
    sets: tuple[frozenset[str], ...],
) -> None:
    first = Router(plan(one, *sets[:2]))
    for filters, held in ((other, sets[:2]), (one, sets[2:]), (other, sets[2:])):
        now = plan(filters, *held)
        first = Router(now, first)
        assert routed(first, batch) == routed(Router(now), batch)


def test_a_plan_without_its_set_is_refused() -> None:
    made = compile_filter("instrument IN SET 'mine'")
    spec = ViewSpec(filter=made.canonical, predicate=made.to_json())
    with pytest.raises(UnknownSet):
        compile_plan(1, [spec], created_at_ns=0)
    whole = compile_plan(1, [spec], created_at_ns=0, sets={"mine": ["b", "a", "b"], "z": []})
    assert whole.sets == {"mine": ("a", "b")}
    with pytest.raises(UnknownSet):
        Router(Plan(1, whole.digest, 0, "", whole.views))


def test_how_many_events_fit_is_asked_once_of_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(view: View) -> int:
        asked.append(view.id)
        return max_rows(view)

    monkeypatch.setattr("functions.operators.route.max_rows", counted)
    none = frozenset[str]()
    first = Router(plan(FILTERS[:3], none, none))
    second = Router(plan(FILTERS[1:4], none, none), first)
    assert len(asked) == len(set(asked)) == 4
    assert second.max_rows == {view.id: max_rows(view) for view in second.plan.views}
