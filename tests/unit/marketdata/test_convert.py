"""Files of events in any format become files in any other, exactly, frame by frame."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import fastavro
import msgpack
import pyarrow as pa
import pyarrow.parquet
import pytest
import simplefix
from hypothesis import HealthCheck, given, settings

from marketdata import convert as conversion
from marketdata.convert import SUFFIXES, convert
from marketdata.formats import FormatError, formats, get_format
from marketdata.schemas import SEQUENCED_SCHEMAS
from marketdata.transformations import Transformation
from scripts.convert import main

sys.path.insert(0, str(Path(__file__).parent / "filters"))

from strategies import batches, column_of

FORMS = sorted({name: suffix for suffix, name in SUFFIXES.items()}.values())
FEW = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def raw(batch: pa.RecordBatch | pa.Table) -> list[list[Any]]:
    """The values, times as integers."""
    columns = []
    for column in batch.columns:
        whole = column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column
        columns.append(whole.to_pylist())
    return columns


def trades(rows: int) -> pa.RecordBatch:
    """Trades whose texts hold what separates events in one format or another."""
    texts = ["plain", 'a "b', "two\nlines", None, "", "c\x01d=\\", '"']
    values: dict[str, list[Any]] = {
        "trade_id": [texts[row % len(texts)] for row in range(rows)],
        "instrument": [f"I{row % 7}" for row in range(rows)],
        "price": [None if row % 5 == 0 else (-(10**9)) ** (row % 2) + row for row in range(rows)],
        "sequence": [2**64 - 1 - row for row in range(rows)],
    }
    arrays = []
    for field in SEQUENCED_SCHEMAS["trade"]:
        least = "X" if pa.types.is_dictionary(field.type) else 0
        absent = None if field.nullable else least
        arrays.append(column_of(field, values.get(field.name, [absent] * rows)))
    return pa.RecordBatch.from_arrays(arrays, schema=SEQUENCED_SCHEMAS["trade"])


def write_arrow(path: Path, *frames: pa.RecordBatch) -> Path:
    with path.open("wb") as file, pa.ipc.new_stream(file, frames[0].schema) as writer:
        for batch in frames:
            writer.write_batch(batch)
    return path


def read_arrow(path: Path) -> pa.Table:
    return pa.ipc.open_stream(path.read_bytes()).read_all()


@pytest.fixture
def _small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "FRAME_ROWS", 3)


def test_every_format_of_this_project_has_a_suffix() -> None:
    assert set(SUFFIXES.values()) == {*formats(), "parquet"}


@pytest.mark.usefixtures("_small_frames")
@pytest.mark.parametrize("suffix", FORMS)
@FEW
@given(batch=batches(finite=True))
def test_there_and_back_nothing_has_changed(
    tmp_path: Path, suffix: str, batch: pa.RecordBatch
) -> None:
    source = write_arrow(tmp_path / "a.arrow", batch)
    middle, back = tmp_path / f"b{suffix}", tmp_path / "c.arrow"
    assert convert(source, middle) == convert(middle, back) == batch.num_rows
    found = read_arrow(back)
    assert found.schema.equals(batch.schema, check_metadata=True)
    assert raw(found) == raw(batch)


@pytest.mark.usefixtures("_small_frames")
def test_through_every_format_nothing_has_changed(tmp_path: Path) -> None:
    batch = trades(20)
    path = write_arrow(tmp_path / "0.arrow", batch.slice(0, 11), batch.slice(11))
    for at, suffix in enumerate([*FORMS, *reversed(FORMS), ".arrow"], 1):
        target = tmp_path / f"{at}{suffix}"
        assert convert(path, target) == 20
        path = target
    assert raw(read_arrow(path)) == raw(batch)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.usefixtures("_small_frames")
def test_other_libraries_read_whole_files(tmp_path: Path) -> None:
    batch = trades(10)
    start = write_arrow(tmp_path / "a.arrow", batch)
    for suffix in FORMS:
        convert(start, tmp_path / f"b{suffix}")
    texts = batch.column("trade_id").to_pylist()
    with (tmp_path / "b.avro").open("rb") as file:
        assert [event["trade_id"] for event in fastavro.reader(file)] == texts
    maps = msgpack.unpackb((tmp_path / "b.msgpack").read_bytes())
    assert [event["trade_id"] for event in maps] == texts
    lines = (tmp_path / "b.json").read_bytes().split(b"\n")[:-1]
    assert [json.loads(line)["trade_id"] for line in lines] == texts
    with (tmp_path / "b.csv").open(newline="") as file:
        assert [row["trade_id"] for row in csv.DictReader(file)] == [text or "" for text in texts]
    parser = simplefix.FixParser()
    parser.append_buffer((tmp_path / "b.fix").read_bytes())
    assert sum(1 for _ in iter(parser.get_message, None)) == 10
    table = pyarrow.parquet.read_table(tmp_path / "b.parquet")
    assert table.column("trade_id").to_pylist() == texts
    assert table.schema.metadata[b"kind"] == b"trade"


def test_frames_are_no_larger_than_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "FRAME_ROWS", 4)
    start = write_arrow(tmp_path / "a.arrow", trades(10))
    for suffix in (".parquet", ".ndjson", ".csv", ".fix", ".pb", ".avro"):
        convert(start, tmp_path / f"b{suffix}")
        convert(tmp_path / f"b{suffix}", tmp_path / "c.arrow")
        sizes = [batch.num_rows for batch in read_arrow(tmp_path / "c.arrow").to_batches()]
        # In CSV lines are counted, of which an event may have several.
        assert max(sizes) <= 4
        assert len(sizes) == 3, suffix


def test_arrow_messages_behind_one_another_are_all_read(tmp_path: Path) -> None:
    batch = trades(20)
    message = write_arrow(tmp_path / "one.arrow", batch).read_bytes()
    empty = write_arrow(tmp_path / "none.arrow", batch.slice(0, 0)).read_bytes()
    (tmp_path / "a.arrow").write_bytes(empty + message + empty + message)
    assert convert(tmp_path / "a.arrow", tmp_path / "b.arrow") == 40
    assert raw(read_arrow(tmp_path / "b.arrow")) == raw(pa.Table.from_batches([batch, batch]))


@pytest.mark.parametrize("whole", [0, 1])
def test_an_arrow_file_that_is_cut_anywhere_is_refused(tmp_path: Path, whole: int) -> None:
    # As the bytes of a price that is the marker of the end.
    batch = (
        trades(2)
        .select(["price"])
        .set_column(0, SEQUENCED_SCHEMAS["trade"].field("price"), pa.array([1, 2**32 - 1]))
    )
    message = write_arrow(tmp_path / "a.arrow", batch).read_bytes()
    assert message[-16:-8] == message[-8:]
    for end in range(1, len(message)):
        (tmp_path / "a.arrow").write_bytes(whole * message + message[:end])
        with pytest.raises(FormatError, match=r"a\.arrow (ends early|is no Arrow stream)"):
            convert(tmp_path / "a.arrow", tmp_path / "b.json")
    (tmp_path / "a.arrow").write_bytes(message[:-8] + message)
    with pytest.raises(FormatError, match="is no Arrow stream"):
        convert(tmp_path / "a.arrow", tmp_path / "b.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.ndjson", '{"kind":"trade","price":"1.5"}'), ("a.csv", 'kind,price\n"trade",1.5')],
)
def test_the_last_line_need_not_end(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    convert(tmp_path / name, tmp_path / "b.arrow")
    assert read_arrow(tmp_path / "b.arrow").column("price").to_pylist() == [1_500_000_000]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.xml", b"", "unknown suffix '.xml'"),
        ("a.ndjson", b"", "holds no event"),
        ("a.csv", b"kind,price\n", "holds no event"),
        ("a.arrow", b"nonsense", "no Arrow stream"),
        ("a.parquet", b"nonsense", "no Parquet file"),
        ("a.avro", b"nonsense", "not an Avro file"),
        ("a.avro", b"Obj\x01" + b"\xff" * 12, "not an Avro file"),
        ("a.fix", b"nonsense" * 10, "no FIX message begins"),
        ("a.fix", b"8=FIX.4.4\x019=50\x01", "ends early"),
        ("a.pb", b"\xff" * 12, "length of a message is broken"),
        ("a.pb", b"\x05\x0a", "ends early"),
        ("a.ndjson", b'{"kind":"trade","px":"1"}\n', "unknown columns"),
    ],
)
def test_what_is_no_file_of_events_is_refused_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=reason):
        convert(tmp_path / name, tmp_path / "b.parquet")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.usefixtures("_small_frames")
def test_events_of_another_kind_further_on_are_refused_and_the_target_stays(tmp_path: Path) -> None:
    lines = ['{"kind":"trade","price":"1"}'] * 3 + ['{"kind":"statistic","value":"1"}'] * 3
    (tmp_path / "a.ndjson").write_text("\n".join(lines) + "\n")
    (tmp_path / "b.csv").write_text("what was there")
    with pytest.raises(FormatError, match="of another kind"):
        convert(tmp_path / "a.ndjson", tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == "what was there"


@pytest.mark.usefixtures("_small_frames")
@pytest.mark.parametrize("suffix", FORMS)
def test_masked_columns_come_through_every_format(tmp_path: Path, suffix: str) -> None:
    masked = ["venue", "source", "ts_event"]
    batch = Transformation(mask=tuple(masked)).apply(trades(7))
    path = write_arrow(tmp_path / "0.arrow", batch)
    for at, each in enumerate([suffix, ".avro", suffix, ".parquet", suffix, ".arrow"], 1):
        target = tmp_path / f"{at}{each}"
        assert convert(path, target) == 7
        path = target
    found = read_arrow(path)
    # Where an absent field is null or left out, what is null on every event is left out.
    kept = batch.drop_columns(masked) if suffix in {".fix", ".pb"} else batch
    assert raw(found) == raw(kept)
    assert found.schema.equals(kept.schema, check_metadata=True)


def test_an_avro_file_says_which_columns_may_be_null(tmp_path: Path) -> None:
    batch = Transformation(mask=("venue",)).apply(trades(4))
    assert get_format("avro").decode(get_format("avro").encode(batch)).schema == batch.schema
    # A block without a null has the same columns.
    frames = [trades(2).cast(batch.schema), batch]
    convert(write_arrow(tmp_path / "a.arrow", *frames), tmp_path / "b.avro")
    assert convert(tmp_path / "b.avro", tmp_path / "c.parquet") == 6


def test_nulls_further_on_where_the_file_forbids_them_are_refused(tmp_path: Path) -> None:
    whole = trades(2)
    holed = Transformation(mask=("venue",)).apply(whole)
    broken = pa.RecordBatch.from_arrays(holed.columns, schema=whole.schema)
    write_arrow(tmp_path / "a.arrow", whole, broken)
    with pytest.raises(FormatError, match="with nulls in a column that began without"):
        convert(tmp_path / "a.arrow", tmp_path / "b.parquet")


def test_what_arrow_cannot_convert_is_told_with_both_files(tmp_path: Path) -> None:
    schema = pa.schema(
        [pa.field("venue", pa.list_(pa.utf8()))], SEQUENCED_SCHEMAS["trade"].metadata
    )
    batch = pa.RecordBatch.from_arrays([pa.array([["X"]])], schema=schema)
    write_arrow(tmp_path / "a.arrow", batch)
    with pytest.raises(FormatError, match=r"a\.arrow cannot become .*b\.csv: "):
        convert(tmp_path / "a.arrow", tmp_path / "b.csv")


def test_columns_of_other_types_are_refused(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("price", pa.float64())], SEQUENCED_SCHEMAS["trade"].metadata)
    batch = pa.RecordBatch.from_arrays([pa.array([1.5])], schema=schema)
    write_arrow(tmp_path / "a.arrow", batch)
    with pytest.raises(FormatError, match="'price' is double, not int64"):
        convert(tmp_path / "a.arrow", tmp_path / "b.csv")


def test_the_command_says_what_it_did_or_why_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_arrow(tmp_path / "a.arrow", trades(1_234))
    assert main([str(source), str(tmp_path / "b.parquet")]) == 0
    assert "1,234 events" in capsys.readouterr().out
    assert main([str(tmp_path / "absent.csv"), str(tmp_path / "b.parquet")]) == 1
    assert "absent.csv" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert ".fix (fix)" in capsys.readouterr().out
