"""The command line: what it lists, refuses, prints and writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cli import BENCHMARKS, main
from benchmarks.figures import BenchmarkFailed
from benchmarks.pulsar_perf import best_rate

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def one_core() -> None:
    """Benchmarks pin the process to a core; give it back."""
    if not hasattr(os, "sched_getaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def test_list_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHMARKS)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["sequencing", "--runs", "0"]])
def test_wrong_usage_is_refused_with_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


@pytest.mark.usefixtures("one_core")
def test_a_benchmark_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--seconds", "0.05", "--rows", "500", "--runs", "2", "--json", str(file)]
    assert main(["sequencing", *arguments]) == 0
    assert "| events_per_second " in capsys.readouterr().out
    document = json.loads(file.read_text())
    assert document["name"] == "sequencing"
    figure = document["figures"]["events_per_second"]
    assert 0 < figure["min"] <= figure["median"] <= figure["max"]


def test_computing_measures_every_view(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seconds", "0.01", "--rows", "200", "--runs", "1", "--instruments", "50"]
    assert main(["computing", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "mid_and_notional_cpu_s_per_million_events" in shown
    assert "all_digits_cpu_s_per_million_events" in shown


def test_enriching_measures_every_view(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seconds", "0.01", "--rows", "200", "--runs", "1", "--instruments", "50"]
    assert main(["enriching", *arguments]) == 0
    assert "decimal_as_of_cpu_s_per_million_events" in capsys.readouterr().out


def test_routing_measures_every_number_of_views(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--seconds", "0.05", "--rows", "200", "--runs", "1", "--views", "2", "5"]
    assert main(["routing", *arguments, "--instruments", "100"]) == 0
    shown = capsys.readouterr().out
    assert "events_per_second_2_views" in shown
    assert "events_per_second_5_views" in shown


def test_a_failed_benchmark_says_why_and_ends_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_options: object) -> None:
        raise BenchmarkFailed("three events are missing")

    monkeypatch.setattr(BENCHMARKS["sequencing"], "measure", fail)
    assert main(["sequencing"]) == 1
    assert "three events are missing" in capsys.readouterr().err


def test_the_script_runs_itself_in_the_environment() -> None:
    answer = subprocess.run(
        [sys.executable, str(CHECKOUT / "scripts" / "bench.py"), "--list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "DDS_BENCH_INSIDE": str(CHECKOUT)},
    )
    assert answer.returncode == 0
    assert "end-to-end" in answer.stdout


def test_pulsar_perf_is_given_its_best_interval() -> None:
    line = "INFO - Throughput received: 9 msg --- {}  msg/s --- 1.0 Mbit/s  --- Latency: mean: 4"
    text = "\n".join(line.format(rate) for rate in ("0.000", "5.5", "9.0", "8.0", "1.5", "0.0"))
    assert best_rate(text, Path("log")) == 9.0
    with pytest.raises(BenchmarkFailed, match="received nothing"):
        best_rate(line.format("0.000"), Path("log"))
