"""What a demo shows: progress while events flow, and the table at the end."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from scripts.verification.recording import History
from scripts.verification.report import Report, StreamReport, Violation


class LiveProgress:
    """A bar for what is published, one for the log, and one for each subscription."""

    def __init__(self, console: Console, history: History, events: int) -> None:
        self._history = history
        self.bars = Progress(
            TextColumn("  {task.description:<18}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            console=console,
        )
        self._published: TaskID = self.bars.add_task("published", total=events)
        self._sequenced: TaskID = self.bars.add_task("sequenced", total=events)
        self._views = {name: self.bars.add_task(name, total=None) for name in history.views}

    def show(self) -> None:
        """Bring the bars up to date."""
        history = self._history
        self.bars.update(self._published, completed=history.accepted_events)
        self.bars.update(self._sequenced, completed=history.log_events)
        for name, task in self._views.items():
            expected = history.expected_events[name]
            received = history.received[name].events
            self.bars.update(task, total=expected, completed=min(received, expected))


def figures(report: Report, formats: dict[str, str], seconds: float) -> dict[str, Any]:
    """The figures of a run, in the form that `--json` writes.

    Latencies run from handing an event to the publisher to its receipt by a consumer, over all
    subscriptions; events a second are those published, over the time until the last one arrived.
    """
    latencies = np.concatenate([view.latency_ns for view in report.views.values()]) / 1e6
    p50, p99, worst = np.percentile(latencies, (50, 99, 100)) if len(latencies) else (0.0,) * 3
    return {
        "published": report.accepted,
        "sequenced": report.sequenced.delivered,
        "subscriptions": [
            {
                "name": view.name,
                "format": formats[view.name],
                "expected": view.expected,
                "delivered": view.delivered,
                "missing": view.count(Violation.MISSING),
                "duplicates": view.count(Violation.DUPLICATES),
                "out_of_order": view.count(Violation.OUT_OF_ORDER),
            }
            for view in report.views.values()
        ],
        "latency_ms": {
            "p50": round(float(p50), 2),
            "p99": round(float(p99), 2),
            "max": round(float(worst), 2),
        },
        "events_per_second": round(report.accepted / seconds, 1),
    }


def show_table(console: Console, report: Report, document: dict[str, Any], rate: int) -> None:
    """The table of a run, and below it samples of whatever is wrong."""
    table = Table(title="what the data set says must arrive, and what did", title_justify="left")
    table.add_column("stream", no_wrap=True)
    table.add_column("format")
    for name in ("expected", "delivered", "missing", "gaps", "duplicates", "out of order"):
        table.add_column(name, justify="right")
    table.add_column("other faults", justify="right")
    table.add_row("published", "arrow", f"{report.accepted:,}")
    _add_row(table, report.sequenced, "arrow", Violation.SEQUENCE_GAPS)
    for view in document["subscriptions"]:
        stream = report.views[view["name"]]
        _add_row(table, stream, view["format"], Violation.DELIVERY_GAPS)
    console.print(table)
    latency = document["latency_ms"]
    console.print(
        f"latency publish to consumer at {rate:,} events/s:"
        f" p50 {latency['p50']} ms, p99 {latency['p99']} ms, max {latency['max']} ms;"
        f" {document['events_per_second']:,.0f} events/s until the last one had arrived",
        soft_wrap=True,
    )
    if report.ok:
        console.print("[bold green]✓ nothing lost, nothing doubled, nothing out of order")
    else:
        console.print("[bold red]✗ the promise is broken:")
        console.print(report.text(), markup=False, soft_wrap=True)


def _add_row(table: Table, stream: StreamReport, format_: str, gaps: Violation) -> None:
    named = (Violation.MISSING, gaps, Violation.DUPLICATES, Violation.OUT_OF_ORDER)
    others = sum(count for kind, count in stream.violations.items() if kind not in named)
    table.add_row(
        stream.name,
        format_,
        f"{stream.expected:,}",
        f"{stream.delivered:,}",
        *(_count(stream.count(kind)) for kind in named),
        _count(others),
    )


def _count(number: int) -> str:
    return f"[bold red]{number:,}[/]" if number else "0"
