"""Figures over runs: medians, spread, and the two forms a report is given in."""

import json

import pytest

from benchmarks.figures import Figure, Report, Sample, describe_machine, summarize


def test_a_figure_is_the_median_with_its_spread() -> None:
    runs = [{"x": Sample(value, "s")} for value in (5.0, 1.0, 3.0)]
    assert summarize(runs) == {"x": Figure(3.0, 1.0, 5.0, "s")}


def test_a_key_that_some_runs_lack_counts_over_the_others() -> None:
    runs = [{"x": Sample(1.0, "s"), "y": Sample(7.0, "ms")}, {"x": Sample(2.0, "s")}]
    assert summarize(runs)["y"] == Figure(7.0, 7.0, 7.0, "ms")
    assert summarize(runs)["x"].median == 1.5


def test_one_key_in_two_units_is_refused() -> None:
    with pytest.raises(ValueError, match="different units"):
        summarize([{"x": Sample(1.0, "s")}, {"x": Sample(1.0, "ms")}])


def test_the_json_form_has_the_promised_fields() -> None:
    figures = {"events_per_second": Figure(2.0, 1.0, 3.0, "events/s")}
    document = json.loads(Report("x", figures, {"runs": 1}, describe_machine(), "abc").to_json())
    assert document["name"] == "x"
    assert document["commit"] == "abc"
    assert document["machine"]["cores"] >= 1
    assert document["figures"] == {
        "events_per_second": {"median": 2.0, "min": 1.0, "max": 3.0, "unit": "events/s"}
    }


def test_the_markdown_form_is_a_table_with_aligned_columns() -> None:
    report = Report("x", {"a": Figure(1234567.0, 0.5, 2e6, "events/s")}, {}, {}, "abc")
    lines = [line for line in report.to_markdown().splitlines() if line.startswith("|")]
    assert "1,234,567" in lines[2]
    assert "2,000,000" in lines[2]
    assert len({len(line) for line in lines}) == 1
