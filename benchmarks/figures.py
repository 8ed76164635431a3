"""Figures of a benchmark: medians over runs with their spread, as JSON and as a Markdown table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

from benchmarks.plotting import Panel
from benchmarks.profiling import Profile


class BenchmarkFailed(Exception):
    """No figure can be given: the message says what went wrong and what to do."""


class Sample(NamedTuple):
    """One measured value of one run."""

    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Figure:
    """A value over all runs."""

    median: float
    min: float
    max: float
    unit: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark hands over.

    Attributes:
        runs: the figures of each run that counts.
        settings: what the figures depend on: seconds, views, rows …
        panels: what there is to plot.
        profiles: by component, of a run that does not count.
    """

    runs: Sequence[Mapping[str, Sample]]
    settings: Mapping[str, Any]
    panels: Sequence[Panel] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What a benchmark found.

    Attributes:
        name: of the benchmark.
        figures: by key; the key names the unit where it is a time.
        settings: what the figures depend on: seconds, views, rows …
        machine: what they were measured on.
        commit: of the checkout; with `+changes` when files differ from it.
        runs: the values of each run, in order.
        panels, profiles: as in `Measured`.
    """

    name: str
    figures: Mapping[str, Figure]
    settings: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    commit: str = ""
    runs: Sequence[Mapping[str, float]] = ()
    panels: Sequence[Panel] = ()
    profiles: Mapping[str, Profile] = field(default_factory=dict)

    def to_json(self) -> str:
        """The report as a JSON document."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_markdown(self) -> str:
        """The figures as a table under a heading, settings, machine and profiles below."""
        rows = [
            (key, _number(each.median), _number(each.min), _number(each.max), each.unit)
            for key, each in self.figures.items()
        ]
        lines = [
            f"### {self.name}",
            "",
            *_table(("figure", "median", "min", "max", "unit"), rows),
            "",
            "settings: " + ", ".join(f"{k} {v}" for k, v in self.settings.items()),
            "machine: " + ", ".join(f"{k} {v}" for k, v in self.machine.items()),
            f"commit: {self.commit}",
        ]
        for component, profile in self.profiles.items():
            shares = [
                (each.frame, f"{each.own:.1%}", f"{each.total:.1%}") for each in profile.shares
            ]
            lines += ["", f"#### where the time of {component} goes: {profile.note}", ""]
            lines += _table(("function", "own", "with calls"), shares)
        return "\n".join(lines)


def summarize(runs: Sequence[Mapping[str, Sample]]) -> dict[str, Figure]:
    """Median, least and greatest value of every key, over the runs that have it.

    >>> summarize([{"x": Sample(1, "s")}, {"x": Sample(3, "s")}, {"x": Sample(2, "s")}])
    {'x': Figure(median=2, min=1, max=3, unit='s')}
    """
    keys = dict.fromkeys(key for run in runs for key in run)
    figures = {}
    for key in keys:
        samples = [run[key] for run in runs if key in run]
        units = {sample.unit for sample in samples}
        if len(units) != 1:
            raise ValueError(f"figure {key} was given in different units: {sorted(units)}")
        values = [sample.value for sample in samples]
        figures[key] = Figure(median(values), min(values), max(values), units.pop())
    return figures


def report(name: str, measured: Measured, checkout: Path) -> Report:
    """A report on finished runs, with the machine and the commit of now."""
    return Report(
        name,
        summarize(measured.runs),
        {"runs": len(measured.runs), **measured.settings},
        describe_machine(),
        describe_commit(checkout),
        [{key: sample.value for key, sample in run.items()} for run in measured.runs],
        measured.panels,
        measured.profiles,
    )


def describe_machine() -> dict[str, Any]:
    """What the figures were measured on. `load_1m` tells whether others were at work."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def describe_commit(checkout: Path) -> str:
    """The checked-out commit, with `+changes` when tracked files differ from it."""
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+changes" if changed else commit


def _git(checkout: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _number(value: float) -> str:
    """Whole numbers from 100 up, three digits below.

    >>> _number(1234567.8), _number(12.3456), _number(0.004567)
    ('1,234,568', '12.3', '0.00457')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rows = [tuple(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    numbers = range(1, min(4, len(heading)))

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * (width - 1) + ":" if i in numbers else "-" * width for i, width in enumerate(widths)
    ]
    return [line(heading), line(rule), *map(line, rows)]
