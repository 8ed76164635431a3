"""Renaming symbols changes names and nothing else."""

from marketdata.sources.synthetic import SyntheticConfig, SyntheticTicks
from scripts.verification.expectations import symbols_of
from scripts.verification.load import renamed


def test_renamed_symbols_keep_everything_else() -> None:
    batch = next(iter(SyntheticTicks(SyntheticConfig(events=100, instruments=5))))

    other = renamed(batch, source="{}-7", instrument="7-{}")

    assert set(symbols_of(other, "source")) == {"synthetic-7"}
    assert [name[2:] for name in symbols_of(other, "instrument")] == symbols_of(
        batch, "instrument"
    ).tolist()
    assert other.schema == batch.schema
    assert other.drop_columns(["source", "instrument"]).equals(
        batch.drop_columns(["source", "instrument"])
    )
