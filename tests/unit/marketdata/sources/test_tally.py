"""Counts and how they are shown."""

import io

import pytest

from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks
from marketdata.sources.tally import Progress, Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_tally_counts_what_it_is_given() -> None:
    tally = Tally()
    ticks = SyntheticTicks(SyntheticConfig(events=20_000, seed=1, instruments=10))
    batches = list(ticks)
    for batch in batches:
        tally.add(batch.slice(0, 0))
        tally.add(batch)
    assert tally.events == 20_000
    assert tally.instruments == {f"SYN{n:05d}" for n in range(10)}
    assert sum(tally.figures()["events_of_kind"].values()) == 20_000
    assert tally.first_ns == batches[0].column("ts_event")[0].value
    assert tally.last_ns == batches[-1].column("ts_event")[-1].value
    tally.start()
    tally.finish(19_999)
    assert tally.seconds < 60
    assert "read       20,000 events" in tally.text()
    assert "stored     19,999 events" in tally.text()
    assert "2024-01-02 14:30:00.000Z" in tally.text()


def test_an_empty_tally_can_be_shown() -> None:
    assert "0 events (none)" in Tally().text()


@pytest.mark.parametrize(("out", "live"), [(Terminal(), True), (io.StringIO(), False)])
def test_progress_is_one_line_on_a_terminal_and_lines_elsewhere(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch, *, live: bool
) -> None:
    now = [0.0]
    monkeypatch.setattr("marketdata.sources.tally.time.monotonic", lambda: now[0])
    tally = Tally()
    progress = Progress(tally, out)
    progress.show()
    assert out.getvalue() == ""
    for batch in SyntheticTicks(SyntheticConfig(events=10_000, seed=1)):
        now[0] += 10.0
        tally.add(batch)
        progress.show()
    progress.note("a note")
    progress.finish()
    text = out.getvalue()
    assert "10,000 events" in text
    assert "a note" in text
    assert ("\r" in text) is live
