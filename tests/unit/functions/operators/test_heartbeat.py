"""Heartbeats tell the next sequence of every instrument that had an event, once."""

from events import trades
from hypothesis import given
from hypothesis import strategies as st

from functions.operators.heartbeat import ToldSequences
from functions.operators.sequence import InstrumentSequences
from marketdata.control_frames import NEXT_SEQUENCES

bursts = st.lists(st.lists(st.sampled_from("ABCDEFG"), max_size=12), max_size=8)


@given(bursts, st.integers(1, 4), st.integers(1, 5))
def test_told_are_the_instruments_of_the_burst_with_what_comes_next(
    found: list[list[str]], max_rows: int, epoch: int
) -> None:
    sequences, told = InstrumentSequences(epoch), ToldSequences()
    for burst in found:
        if burst:
            sequences.assign(trades(burst))
        expected = {name: sequences.last(name) + 1 for name in burst}
        heard: dict[str, int] = {}
        while (batch := told.take(sequences, max_rows=max_rows)).num_rows:
            assert batch.num_rows <= max_rows
            assert batch.schema == NEXT_SEQUENCES
            assert set(batch.column("epoch").to_pylist()) == {epoch}
            heard |= dict(
                zip(
                    batch.column("instrument").to_pylist(),
                    batch.column("sequence").to_pylist(),
                    strict=True,
                )
            )
        assert heard == expected


def test_after_a_recovery_everything_is_told_again() -> None:
    sequences = InstrumentSequences()
    sequences.assign(trades(["A", "B", "A"]))
    ToldSequences().take(sequences)
    rebuilt = InstrumentSequences.from_snapshot(sequences.snapshot())
    assert ToldSequences().take(rebuilt).to_pydict() == {
        "instrument": ["A", "B"],
        "sequence": [3, 2],
        "epoch": [1, 1],
    }
