r"""Publish market data: files, sample data sets or synthetic ticks, as fast as asked for.

    python3 scripts/publish.py --sample stocks
    python3 scripts/publish.py trades.dbn.zst --speed 10x
    python3 scripts/publish.py ticks.csv --kind trade --set venue=XNAS \
        --map instrument=symbol --map ts_event=time --map price=px --map size=qty
    python3 scripts/publish.py --synthetic 1000000 --seed 7 --rate 50000 --speed 1x

Every event is stored exactly once while this command lives. Ctrl-C stops reading, waits until
what was read is stored, and says how much that is; a second Ctrl-C gives up at once.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pulsar
import pyarrow as pa

from marketdata.batching import conform_events
from marketdata.errors import DistributionError
from marketdata.publisher import Publisher, PublishTimeout
from marketdata.sources.batches import NumberingBySource
from marketdata.sources.errors import SourceError
from marketdata.sources.files import open_events
from marketdata.sources.mapping import ORDERS, load_mapping
from marketdata.sources.pacing import paced, repeated
from marketdata.sources.samples import SAMPLE_SETS, load_sample_bars
from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks
from marketdata.sources.tally import Progress, Tally
from marketdata.topics import INGEST_EVENTS

EXIT_FAILED: Final = 1
EXIT_INTERRUPTED: Final = 130

_DEFAULT_SERVICE_URL: Final = "pulsar://127.0.0.1:6650"
_PATIENCE_S: Final = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not (options.files or options.sample or options.synthetic is not None):
        parser.error("say what to publish: files, --sample NAME or --synthetic N")
    tally = Tally()
    interrupted = False
    try:
        batches = paced(_batches(options), options.speed, max_gap_s=options.max_gap)
        with ExitStack() as stack:
            publisher = None if options.dry_run else stack.enter_context(_publisher(options))
            tally.start()
            progress = Progress(tally, sys.stderr)
            try:
                for batch in batches:
                    if publisher is None:
                        conform_events(batch, ts_publish_ns=time.time_ns())
                    else:
                        _publish(publisher, batch, progress)
                    tally.add(batch)
                    progress.show()
            except KeyboardInterrupt:
                interrupted = True
                progress.note("interrupted: storing what has been read …")
            if publisher is not None:
                _flush(publisher, progress)
                tally.finish(publisher.statistics().events)
            progress.finish()
    except KeyboardInterrupt:
        print("\npublish: given up; the last events may not be stored", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (DistributionError, pulsar.PulsarException, ValueError) as error:
        print(f"\npublish: {_explained(error, options)}", file=sys.stderr)
        if tally.events:
            print(tally.text(), file=sys.stderr)
        return EXIT_FAILED
    print(tally.text())
    if options.json:
        Path(options.json).write_text(json.dumps(tally.figures(), indent=2) + "\n", "utf-8")
    return EXIT_INTERRUPTED if interrupted else 0


def service_url() -> str:
    """Where Pulsar is: the environment, else the local stack, else Pulsar's usual port."""
    if url := os.environ.get("DDS_PULSAR_SERVICE_URL"):
        return url
    home = Path(os.environ.get("DDS_HOME") or Path(__file__).resolve().parent.parent / ".dds")
    try:
        stack = json.loads((home / "stack.json").read_text("utf-8"))
        return str(stack["components"]["pulsar"]["service_url"])
    except (OSError, ValueError, LookupError, TypeError):
        return _DEFAULT_SERVICE_URL


def _publisher(options: argparse.Namespace) -> Publisher:
    name = options.name or f"publish-{socket.gethostname()}-{os.getpid()}"
    # Failures reach the user in this command's own words; the client's log is on demand.
    logger = (
        pulsar.ConsoleLogger(pulsar.LoggerLevel.Warn)
        if options.verbose
        else pulsar.FileLogger(pulsar.LoggerLevel.Error, os.devnull)
    )
    return Publisher(
        options.service_url or service_url(),
        name=name,
        topic=options.topic,
        client_options={"operation_timeout_seconds": 5, "logger": logger},
    )


def _publish(publisher: Publisher, batch: pa.RecordBatch, progress: Progress) -> None:
    while True:
        try:
            return publisher.publish(batch, timeout_s=_PATIENCE_S)
        except PublishTimeout:
            progress.note("the broker confirms nothing; still trying …")


def _flush(publisher: Publisher, progress: Progress) -> None:
    while True:
        try:
            return publisher.flush(_PATIENCE_S)
        except PublishTimeout:
            progress.note("waiting for the broker to confirm the last events …")


def _batches(options: argparse.Namespace) -> Iterator[pa.RecordBatch]:
    numbering = NumberingBySource()
    parts: list[Any] = []
    if options.sample:
        names = SAMPLE_SETS if "all" in options.sample else dict.fromkeys(options.sample)
        parts.append(partial(load_sample_bars, *names, numbering=numbering))
    for file in options.files:
        # Opened here, so that a wrong name or mapping is told before anything is published.
        reader = open_events(
            file,
            mapping=_mapping(options),
            numbering=numbering,
            unmapped_ids=options.unmapped_ids,
        )
        parts.append(reader.__iter__)
    if options.synthetic is not None:
        parts.append(SyntheticTicks(_synthetic(options)).__iter__)

    def play() -> Iterable[pa.RecordBatch]:
        return chain.from_iterable(part() for part in parts)

    return repeated(play) if options.loop and options.synthetic is None else iter(play())


def _mapping(options: argparse.Namespace) -> dict[str, object]:
    parts = load_mapping(options.mapping) if options.mapping else {}
    for name in ("kind", "time_unit", "timezone", "price_unit", "size_unit", "delimiter", "order"):
        if getattr(options, name) is not None:
            parts[name] = getattr(options, name)
    constants = list(options.set)
    if options.source:
        constants.append(("source", options.source))
    for name, pairs in (("columns", options.map), ("constants", constants)):
        before = parts.get(name, {})
        if pairs and isinstance(before, dict):
            parts[name] = before | dict(pairs)
    return parts


def _synthetic(options: argparse.Namespace) -> SyntheticConfig:
    if options.files or options.sample:
        raise SourceError("--synthetic cannot be mixed with files or --sample")
    if options.source:
        raise SourceError("--source cannot rename synthetic events; their source is `synthetic`")
    return SyntheticConfig(
        events=None if options.loop else options.synthetic,
        seed=options.seed,
        rate=options.rate,
        instruments=options.instruments,
        disorder=options.disorder,
        holes=options.holes,
        repeats=options.repeats,
    )


def _explained(error: Exception, options: argparse.Namespace) -> str:
    if isinstance(error, pulsar.PulsarException):
        return (
            f"Pulsar at {options.service_url or service_url()} refused or cannot be reached"
            f" ({error}); is it up (scripts/dev.py status)? --service-url names another"
        )
    return str(error)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text.removesuffix("x"))
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no speed; say 1x, 10x, 0.5x or max")
    return speed


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (separator and name and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="publish.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to publish")
    what.add_argument("files", nargs="*", metavar="FILE", help="DBN, Parquet or CSV, in this order")
    what.add_argument(
        "--sample",
        action="append",
        choices=[*SAMPLE_SETS, "all"],
        help="real bars that a package ships (repeatable; merged by event time)",
    )
    what.add_argument("--synthetic", type=int, metavar="N", help="N synthetic quotes and trades")
    what.add_argument("--source", metavar="NAME", help="source name of the files' events")
    what.add_argument(
        "--unmapped-ids",
        action="store_true",
        help="DBN: name instruments without a symbol by their ids",
    )
    pace = parser.add_argument_group("pace")
    pace.add_argument(
        "--speed", type=_speed, metavar="1x|10x|max", help="event time against real time [max]"
    )
    pace.add_argument("--max-gap", type=float, metavar="S", help="wait at most S s between events")
    pace.add_argument(
        "--loop",
        action="store_true",
        help="for ever; event time moves on by the length of the data each time",
    )
    columns = parser.add_argument_group("Parquet and CSV")
    columns.add_argument("--mapping", metavar="FILE", help="column mapping in YAML or JSON")
    columns.add_argument("--kind", help="trade, quote, bar, book, status or statistic")
    columns.add_argument(
        "--map", type=_pair, action="append", default=[], metavar="OURS=THEIRS", help="a column"
    )
    columns.add_argument(
        "--set", type=_pair, action="append", default=[], metavar="OURS=VALUE", help="a constant"
    )
    columns.add_argument("--time-unit", help="of numeric times: s, ms, us or ns")
    columns.add_argument("--timezone", help="of times that carry none [UTC]")
    columns.add_argument("--price-unit", help="a power of ten: 0.01 if prices count cents [1]")
    columns.add_argument("--size-unit", help="a power of ten [1]")
    columns.add_argument("--delimiter", help="of CSV [,]")
    columns.add_argument(
        "--order", choices=list(ORDERS), help="rows out of event-time order: refuse, sort, keep"
    )
    synthetic = parser.add_argument_group("synthetic ticks")
    synthetic.add_argument("--seed", type=int, default=0, help="same seed, same events [0]")
    synthetic.add_argument(
        "--rate", type=float, default=100_000.0, help="events a second of event time [100000]"
    )
    synthetic.add_argument("--instruments", type=int, default=1000, help="[1000]")
    for name, text in (
        ("disorder", "come late"),
        ("holes", "follow a hole in the source sequence"),
        ("repeats", "come twice"),
    ):
        synthetic.add_argument(
            f"--{name}", type=float, default=0.0, metavar="SHARE", help=f"of events that {text} [0]"
        )
    where = parser.add_argument_group("where to")
    where.add_argument(
        "--service-url", metavar="URL", help="[DDS_PULSAR_SERVICE_URL, else the local stack]"
    )
    where.add_argument("--topic", default=INGEST_EVENTS, help=f"[{INGEST_EVENTS}]")
    where.add_argument("--name", help="publisher name, unique among those that run [host and pid]")
    where.add_argument(
        "--dry-run", action="store_true", help="read, check and count, without a broker"
    )
    where.add_argument("--verbose", action="store_true", help="show the Pulsar client's log")
    where.add_argument("--json", metavar="FILE", help="write the summary there too")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
