"""Telling files apart by their content."""

from pathlib import Path

import databento_dbn as dbn
import pytest

from marketdata.sources import SourceError
from marketdata.sources.dbn import DbnFile
from marketdata.sources.files import open_events
from marketdata.sources.tabular import TabularFile


@pytest.fixture
def dbn_path(tmp_path: Path) -> Path:
    path = tmp_path / "named.anything"
    metadata = dbn.Metadata(
        dataset="XNAS.ITCH",
        start=0,
        stype_in=dbn.SType.RAW_SYMBOL,
        stype_out=dbn.SType.INSTRUMENT_ID,
        schema=dbn.Schema.TRADES,
    )
    path.write_bytes(metadata.encode())
    return path


def test_dbn_is_known_by_content(dbn_path: Path) -> None:
    file = open_events(dbn_path, mapping={"constants": {"source": "mine", "region": "us"}})
    assert isinstance(file, DbnFile)
    assert file.source == "mine"
    assert list(file) == []


@pytest.mark.parametrize("parts", [{"kind": "trade"}, {"constants": {"venue": "XNAS"}}])
def test_dbn_takes_no_mapping(dbn_path: Path, parts: dict[str, object]) -> None:
    with pytest.raises(SourceError, match="says itself what it holds"):
        open_events(dbn_path, mapping=parts)


def test_everything_else_is_read_by_its_mapping(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("instrument,venue,ts_event\nA,XNAS,1\n")
    parts: dict[str, object] = {"kind": "status", "time_unit": "s"}
    file = open_events(path, mapping=parts)
    assert isinstance(file, TabularFile)
    assert [batch.num_rows for batch in file] == [1]
    with pytest.raises(SourceError, match="needs the kind of its events and a column mapping"):
        open_events(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no\.dbn: cannot be opened"):
        open_events(tmp_path / "no.dbn")
