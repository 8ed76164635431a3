"""The demo's own parts: what it publishes, what it expects, what it writes."""

import numpy as np
import pytest

import scripts.demo
from marketdata.filters import compile_filter
from marketdata.filters.columns import FrameColumns
from marketdata.filters.computed import compile_computed, computed_column
from scripts.demonstration.data import DataSet, real_bars, synthetic_ticks
from scripts.demonstration.show import figures
from scripts.demonstration.subscriptions import subscriptions_for
from scripts.verification.expectations import symbols_of
from scripts.verification.recording import kind_of
from scripts.verification.report import Report, StreamReport, Violation


@pytest.fixture(scope="module")
def bars() -> DataSet:
    return real_bars("demo-1")


def test_the_real_data_is_published_under_the_names_of_the_run(bars: DataSet) -> None:
    sources = {name for batch in bars.batches for name in symbols_of(batch, "source")}

    assert bars.kinds == {"bar"}
    assert bars.events > 19_000
    assert sources == {"bokeh_sampledata@demo-1", "backtesting@demo-1"}


def test_playing_it_twice_doubles_the_events_and_goes_on_in_time(bars: DataSet) -> None:
    twice = real_bars("demo-1", repeat=2)
    times = np.concatenate([batch.column("ts_event").cast("int64") for batch in twice.batches])

    assert twice.events == 2 * bars.events
    assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("kind", ["bars", "ticks"])
def test_five_different_subscriptions_expect_something_of_the_data(
    kind: str, bars: DataSet
) -> None:
    data = bars if kind == "bars" else synthetic_ticks("demo-1", 50_000)
    subscriptions = subscriptions_for(data)

    assert len({one.name for one in subscriptions}) == 5
    assert {one.expectation.format for one in subscriptions} == {"arrow", "json"}
    assert any(one.expectation.select for one in subscriptions)
    for one in subscriptions:
        expected = sum(
            int(one.expectation.matches(batch, kind_of(batch)).sum()) for batch in data.batches
        )
        assert expected > 0
        assert one.name == "everything" or expected < data.events


@pytest.mark.parametrize("kind", ["bars", "ticks"])
def test_both_tellings_of_a_subscription_agree(kind: str, bars: DataSet) -> None:
    """The SQL that the functions run and the NumPy that says what must arrive."""
    data = bars if kind == "bars" else synthetic_ticks("demo-1", 50_000)
    for one in subscriptions_for(data):
        if one.filter:
            sql = compile_filter(one.filter)
            for batch in data.batches:
                told = one.expectation.matches(batch, kind_of(batch))
                assert (sql.mask(batch) == told).all(), one.name


@pytest.mark.parametrize("kind", ["bars", "ticks"])
def test_both_tellings_of_computed_columns_agree(kind: str, bars: DataSet) -> None:
    data = bars if kind == "bars" else synthetic_ticks("demo-1", 50_000)
    computing = [one for one in subscriptions_for(data) if one.compute]
    assert computing
    for one in computing:
        assert one.expectation.computed.keys() == one.compute.keys()
        for name, values in one.expectation.computed.items():
            tree = compile_computed(one.compute[name])
            for batch in data.batches:
                found = computed_column(tree, FrameColumns(batch, kind_of(batch)))
                assert found.equals(values(batch, kind_of(batch))), name


def test_the_figures_have_the_promised_form() -> None:
    view = StreamReport("all", expected=4, delivered=3, latency_ns=np.array([1, 2, 9]) * 10**6)
    view.add(Violation.MISSING, 1, ["one"])
    report = Report(4, StreamReport("sequenced", expected=4, delivered=4), {"all": view})

    assert figures(report, {"all": "json"}, seconds=2.0) == {
        "published": 4,
        "sequenced": 4,
        "subscriptions": [
            {
                "name": "all",
                "format": "json",
                "expected": 4,
                "delivered": 3,
                "missing": 1,
                "duplicates": 0,
                "out_of_order": 0,
            }
        ],
        "latency_ms": {"p50": 2.0, "p99": 8.86, "max": 9.0},
        "events_per_second": 2.0,
    }


def test_without_a_stack_it_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in scripts.demo.VARIABLES:
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(SystemExit) as ended:
        scripts.demo.main([])

    assert ended.value.code == 2
    assert "dev.py demo" in capsys.readouterr().err
