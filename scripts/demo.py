"""The demo: real market data through the whole service, and proof that it arrived.

    python3 scripts/dev.py demo                       # sets everything up first
    python3 scripts/dev.py demo --rate 20000 --repeat 3
    python3 scripts/dev.py demo --file trades.dbn.zst
    python3 scripts/dev.py demo --synthetic 500000    # load, not market data

It migrates the database, applies the topology, registers a consumer with five subscriptions over
the control plane's HTTP API, publishes, consumes with plain Pulsar clients, and compares what came
with what the data set itself says must come. The exit code is 1 when one event is missing, doubled,
out of order or changed. Runs do not disturb each other: each has names of its own.
"""

import argparse
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pulsar
from rich.console import Console

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from marketdata.errors import DistributionError  # noqa: E402 - path set above
from scripts.demonstration.data import DataSet, from_file, real_bars, synthetic_ticks  # noqa: E402 - path set above
from scripts.demonstration.session import consume, play  # noqa: E402 - path set above
from scripts.demonstration.show import LiveProgress, figures, show_table  # noqa: E402 - path set above
from scripts.demonstration.subscriptions import subscriptions_for  # noqa: E402 - path set above
from scripts.devstack.errors import StackError  # noqa: E402 - path set above
from scripts.verification.control_api import ApiError, ControlApi  # noqa: E402 - path set above

VARIABLES = ("DDS_PULSAR_SERVICE_URL", "DDS_CONTROL_PLANE_URL")
PREPARING_VARIABLES = ("DDS_PULSAR_ADMIN_URL", "DDS_DATABASE_URL")


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 when all is in order, 1 when not or when it failed, 2 for wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    needed = VARIABLES if options.no_prepare else VARIABLES + PREPARING_VARIABLES
    if unset := [name for name in needed if not os.environ.get(name)]:
        parser.error(
            f"{', '.join(unset)} not set; run `python3 scripts/dev.py demo`, which sets them"
        )
    console = Console()
    if console.width < 110 and not console.is_terminal:
        console = Console(width=110)
    try:
        return _run(options, console)
    except StackError as error:
        console.print(error.report(), markup=False, soft_wrap=True)
    except (
        ApiError,
        DistributionError,
        httpx.HTTPError,
        pulsar.PulsarException,
        TimeoutError,
    ) as error:
        console.print(
            f"demo: {error}\nwhat to do: see `python3 scripts/dev.py status` and `dev.py logs`,"
            " then run the demo again",
            markup=False,
            soft_wrap=True,
        )
    except KeyboardInterrupt:
        console.print("demo: interrupted")
        return 130
    return 1


def _run(options: argparse.Namespace, console: Console) -> int:
    run = f"demo-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}"
    data = _data(options, run)
    console.print(f"[bold]{data.events:,} events: {data.title}", highlight=False)
    if not options.no_prepare:
        _prepare(console)
    subscriptions = subscriptions_for(data)
    with ExitStack() as cleanup:
        api = cleanup.enter_context(ControlApi(os.environ["DDS_CONTROL_PLANE_URL"]))
        if not options.keep:
            cleanup.callback(api.take_away)
        with console.status("subscribe"):
            consumption = consume(
                cleanup, api, os.environ["DDS_PULSAR_SERVICE_URL"], run, subscriptions
            )
        for subscription in subscriptions:
            console.print(
                f"  {subscription.name:<18} {subscription.filter or '(every event)'}",
                highlight=False,
                markup=False,
            )
        progress = LiveProgress(console, consumption.history, data.events)
        with progress.bars:
            report, seconds = play(consumption, data, run, options.rate, progress)
    formats = {one.name: one.expectation.format for one in subscriptions}
    document = figures(report, dict(formats), seconds)
    show_table(console, report, document, options.rate)
    if options.json:
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return 0 if report.ok and report.accepted == data.events else 1


def _data(options: argparse.Namespace, run: str) -> DataSet:
    if options.synthetic:
        return synthetic_ticks(run, options.synthetic)
    if options.file:
        return from_file(run, options.file, options.mapping, repeat=options.repeat)
    return real_bars(run, repeat=options.repeat)


def _prepare(console: Console) -> None:
    # The demo's image cannot prepare anything, and has nothing of what these need.
    from scripts.devstack.control_plane import DEPLOY, MIGRATE, run_task  # noqa: PLC0415

    home = Path(os.environ.get("DDS_HOME") or Path(__file__).resolve().parents[1] / ".dds")
    for name, command, title in (
        ("migrate", MIGRATE, "migrate the database"),
        ("deploy", DEPLOY, "apply the topology, build and deploy the functions"),
    ):
        with console.status(title):
            run_task(name, command, environment={}, log=home / "logs" / f"demo-{name}.log")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--file", type=Path, metavar="FILE", help="DBN, Parquet or CSV")
    what.add_argument(
        "--synthetic", type=_positive, metavar="N", help="N synthetic quotes and trades instead"
    )
    parser.add_argument("--mapping", metavar="FILE", help="column mapping for Parquet and CSV")
    parser.add_argument("--repeat", type=_positive, default=1, metavar="N", help="play N times [1]")
    parser.add_argument(
        "--rate", type=_positive, default=5000, metavar="N", help="events a second [5000]"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep consumer and subscriptions")
    parser.add_argument(
        "--no-prepare", action="store_true", help="database and functions are known to be current"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
