"""The command `publish.py`, without a broker."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pytest

from marketdata.publisher import PublishTimeout
from scripts import publish

CSV = "sym,time,px,qty\nA,1,1.5,1\nB,2,2.5,1\n"
MAP = [
    *("--kind", "trade", "--set", "venue=XNAS", "--time-unit", "s"),
    *("--map", "instrument=sym", "--map", "ts_event=time"),
    *("--map", "price=px", "--map", "size=qty"),
]


class RecordingPublisher:
    """Takes batches as the publisher does; refuses the first one for want of room."""

    def __init__(self, service: str, **_: Any) -> None:
        self.service = service
        self.batches: list[pa.RecordBatch] = []
        self.refusals = 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def publish(self, batch: pa.RecordBatch, *, timeout_s: float) -> None:
        if self.refusals:
            self.refusals -= 1
            raise PublishTimeout(f"no room after {timeout_s} s")
        self.batches.append(batch)

    def flush(self, timeout_s: float) -> None:
        assert timeout_s > 0

    def statistics(self) -> Any:
        return type("Statistics", (), {"events": sum(b.num_rows for b in self.batches)})


@pytest.fixture
def publishers(monkeypatch: pytest.MonkeyPatch) -> list[RecordingPublisher]:
    made: list[RecordingPublisher] = []

    def make(service: str, **arguments: Any) -> RecordingPublisher:
        made.append(RecordingPublisher(service, **arguments))
        return made[-1]

    monkeypatch.setattr(publish, "Publisher", make)
    return made


def test_a_dry_run_reads_checks_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "summary.json"
    assert publish.main(["--sample", "stocks", "--dry-run", "--json", str(out)]) == 0
    assert "12,154 bar" in capsys.readouterr().out
    figures = json.loads(out.read_text())
    assert (figures["events"], figures["stored"], figures["instruments"]) == (12_154, None, 5)


def test_every_event_is_published_even_when_room_is_short(
    publishers: list[RecordingPublisher], capsys: pytest.CaptureFixture[str]
) -> None:
    assert publish.main(["--synthetic", "20000", "--seed", "3", "--service-url", "pulsar://x"]) == 0
    (publisher,) = publishers
    assert publisher.service == "pulsar://x"
    assert sum(batch.num_rows for batch in publisher.batches) == 20_000
    captured = capsys.readouterr()
    assert "stored     20,000 events" in captured.out
    assert "still trying" in captured.err


def test_files_are_published_in_the_order_given_under_one_numbering(
    tmp_path: Path, publishers: list[RecordingPublisher]
) -> None:
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text(CSV)
    files = [str(tmp_path / name) for name in ("one.csv", "two.csv")]
    assert publish.main([*files, *MAP, "--source", "mine"]) == 0
    rows = [row for batch in publishers[0].batches for row in batch.to_pylist()]
    got = [(row["instrument"], row["source"], row["source_sequence"]) for row in rows]
    assert got == [("A", "mine", 1), ("B", "mine", 1), ("A", "mine", 2), ("B", "mine", 2)]


def test_options_complete_a_mapping_file(
    tmp_path: Path, publishers: list[RecordingPublisher]
) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    mapping = tmp_path / "mapping.json"
    mapping.write_text(
        json.dumps(
            {
                "kind": "trade",
                "columns": {"instrument": "sym", "ts_event": "time", "price": "qty"},
                "constants": {"venue": "XNYS"},
                "time_unit": "s",
            }
        )
    )
    options = ["--mapping", str(mapping), "--map", "price=px", "--set", "region=us"]
    assert publish.main([str(tmp_path / "t.csv"), *options]) == 0
    row = publishers[0].batches[0].to_pylist()[0]
    assert (row["price"], row["venue"], row["region"]) == (1_500_000_000, "XNYS", "us")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["no.csv"], 1, "no.csv: cannot be opened"),
        (["--synthetic", "5", "--holes", "2"], 1, "holes is 2.0"),
        (["--synthetic", "5", "--sample", "goog"], 1, "cannot be mixed"),
        (["--synthetic", "5", "--source", "real"], 1, "cannot rename synthetic"),
        ([], 2, "say what to publish"),
        (["--sample", "gold"], 2, "invalid choice"),
        (["--sample", "goog", "--speed", "fast"], 2, "'fast' is no speed; say 1x"),
        (["--sample", "goog", "--speed", "-1x"], 2, "expected one argument"),
        (["x.csv", "--map", "price"], 2, "not of the form NAME=VALUE"),
    ],
)
def test_wrong_usage_says_what_to_do(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        got = publish.main([*arguments, "--dry-run"])
    except SystemExit as left:
        got = left.code if isinstance(left.code, int) else -1
    assert got == code
    assert message in capsys.readouterr().err


def test_an_unreachable_broker_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    url = "pulsar://127.0.0.1:1"
    assert publish.main(["--sample", "goog", "--service-url", url]) == 1
    assert f"Pulsar at {url} refused or cannot be reached" in capsys.readouterr().err


def test_help_names_every_way_to_publish(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        publish.main(["--help"])
    text = capsys.readouterr().out
    for option in ("--sample", "--synthetic", "--map", "--speed", "--loop", "--dry-run"):
        assert option in text


def test_the_service_url_comes_from_environment_then_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DDS_PULSAR_SERVICE_URL", raising=False)
    monkeypatch.setenv("DDS_HOME", str(tmp_path))
    assert publish.service_url() == "pulsar://127.0.0.1:6650"
    stack = {"components": {"pulsar": {"service_url": "pulsar://127.0.0.1:7777"}}}
    (tmp_path / "stack.json").write_text(json.dumps(stack))
    assert publish.service_url() == "pulsar://127.0.0.1:7777"
    monkeypatch.setenv("DDS_PULSAR_SERVICE_URL", "pulsar://elsewhere:6650")
    assert publish.service_url() == "pulsar://elsewhere:6650"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_an_endless_run_with_a_summary(number: signal.Signals) -> None:
    command = [sys.executable, publish.__file__]
    options = ["--sample", "goog", "--loop", "--dry-run"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # A shell's background jobs, and all they start, ignore Ctrl-C unless they ask for it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    assert process.stderr is not None
    assert "events/s" in process.stderr.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "events" in out
