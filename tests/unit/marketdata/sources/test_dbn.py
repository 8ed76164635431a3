"""DBN files written by the package itself, read back as events."""

import datetime as dt
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import databento_dbn as dbn
import pytest

from marketdata.batching import conform_events
from marketdata.sources import SourceError
from marketdata.sources.batches import SourceNumbering
from marketdata.sources.dbn import BATCH_ROWS, DbnFile

T0 = 1_700_000_000_000_000_000
DAY = dt.date(2023, 11, 14)
TOMORROW = dt.date(2023, 11, 15)
AFTER = dt.date(2023, 11, 16)


@dataclass
class Interval:
    start_date: dt.date
    end_date: dt.date
    symbol: str


@dataclass
class Mapping:
    raw_symbol: str
    intervals: list[Interval]


def metadata(schema: dbn.Schema | None, **changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "dataset": "XNAS.ITCH",
        "start": T0,
        "stype_in": dbn.SType.RAW_SYMBOL,
        "stype_out": dbn.SType.INSTRUMENT_ID,
        "schema": schema,
        "mappings": [
            Mapping("AAPL", [Interval(DAY, AFTER, "32")]),
            Mapping("MSFT", [Interval(DAY, TOMORROW, "33")]),
            Mapping("TSLA", [Interval(TOMORROW, AFTER, "33")]),
        ],
    }
    return bytes(dbn.Metadata(**(arguments | changes)).encode())


def trade(n: int = 0, **changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "publisher_id": 2,
        "instrument_id": 32,
        "ts_event": T0 + n,
        "price": 187_250_000_001,
        "size": 100 + n,
        "action": dbn.Action.TRADE,
        "side": dbn.Side.BID,
        "depth": 0,
        "ts_recv": T0 + n + 1000,
        "flags": dbn.F_LAST,
    }
    return bytes(dbn.TradeMsg(**(arguments | changes)))


def quote(levels: dbn.BidAskPair, **changes: Any) -> bytes:
    arguments: dict[str, Any] = {
        "publisher_id": 1,
        "instrument_id": 32,
        "ts_event": T0,
        "price": 1,
        "size": 1,
        "action": dbn.Action.ADD,
        "side": dbn.Side.BID,
        "depth": 0,
        "ts_recv": T0,
        "flags": dbn.F_TOB | dbn.F_MAYBE_BAD_BOOK,
        "levels": levels,
    }
    return bytes(dbn.MBP1Msg(**(arguments | changes)))


def write(path: Path, data: bytes, *, zstd: bool = False) -> Path:
    if zstd:
        out = io.BytesIO()
        coder = dbn.Transcoder(out, dbn.Encoding.DBN, dbn.Compression.ZSTD)
        coder.write(data)
        coder.finish()
        data = out.getvalue()
    path.write_bytes(data)
    return path


def rows(file: DbnFile) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for batch in file:
        conform_events(batch, ts_publish_ns=1)
        out += batch.to_pylist()
    return out


@pytest.mark.parametrize("zstd", [False, True])
def test_trades_are_kept_to_the_last_digit(tmp_path: Path, zstd: bool) -> None:
    records = [
        trade(0),
        trade(1, side=dbn.Side.ASK, price=-1),
        trade(2, side=dbn.Side.NONE, price=dbn.UNDEF_PRICE, size=2**32 - 2),
    ]
    file = DbnFile(
        write(tmp_path / "t.dbn", metadata(dbn.Schema.TRADES) + b"".join(records), zstd=zstd),
        region="us",
    )
    got = rows(file)
    assert [row["price"] for row in got] == [187_250_000_001, -1, None]
    assert [row["size"] for row in got] == [100 * 10**8, 101 * 10**8, (2**32 - 2) * 10**8]
    assert [row["side"] for row in got] == ["buy", "sell", None]
    assert [row["source_sequence"] for row in got] == [1, 2, 3]
    assert [row["ts_event"].value for row in got] == [T0, T0 + 1, T0 + 2]
    first = got[0]
    assert (first["instrument"], first["venue"], first["region"]) == ("AAPL", "XNAS", "us")
    assert (first["source"], first["quality_flags"]) == ("XNAS.ITCH.trades", dbn.F_LAST)


def test_the_reader_agrees_with_the_packages_own_decoder(tmp_path: Path) -> None:
    count = 2 * BATCH_ROWS + 77
    data = metadata(dbn.Schema.TRADES) + b"".join(trade(n) for n in range(count))
    decoder = dbn.DBNDecoder()
    _, *records = decoder.write_and_decode(data)
    expected = [(r.ts_event, r.price, r.size * 10**8) for r in records]  # type: ignore[union-attr]
    batches = list(DbnFile(write(tmp_path / "t.dbn", data)))
    got = [
        (row["ts_event"].value, row["price"], row["size"])
        for batch in batches
        for row in batch.select(["ts_event", "price", "size"]).to_pylist()
    ]
    assert got == expected
    assert max(batch.num_rows for batch in batches) <= BATCH_ROWS


def test_symbols_change_with_the_day(tmp_path: Path) -> None:
    day_ns = 86_400_000_000_000
    data = b"".join(trade(k * day_ns, instrument_id=33, size=1) for k in (0, 1))
    file = DbnFile(write(tmp_path / "t.dbn", metadata(dbn.Schema.TRADES) + data))
    assert [row["instrument"] for row in rows(file)] == ["MSFT", "TSLA"]


def test_mappings_by_instrument_id_are_read_the_other_way_round(tmp_path: Path) -> None:
    head = metadata(
        dbn.Schema.TRADES,
        stype_in=dbn.SType.INSTRUMENT_ID,
        stype_out=dbn.SType.RAW_SYMBOL,
        mappings=[Mapping("32", [Interval(DAY, AFTER, "AAPL")])],
    )
    assert rows(DbnFile(write(tmp_path / "t.dbn", head + trade())))[0]["instrument"] == "AAPL"


def test_an_id_without_symbol_is_refused_or_named_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "t.dbn", metadata(dbn.Schema.TRADES) + trade(instrument_id=77))
    with pytest.raises(SourceError, match=r"t\.dbn: instrument id 77 has no symbol on 2023-11-14"):
        rows(DbnFile(path))
    assert rows(DbnFile(path, unmapped_ids=True))[0]["instrument"] == "77"


def test_mapping_records_of_a_live_stream_name_what_follows(tmp_path: Path) -> None:
    mapping = bytes(
        dbn.SymbolMappingMsg(
            publisher_id=2,
            instrument_id=90,
            ts_event=T0,
            stype_in=dbn.SType.RAW_SYMBOL,
            stype_in_symbol="NVDA",
            stype_out=dbn.SType.RAW_SYMBOL,
            stype_out_symbol="NVDA",
            start_ts=T0,
            end_ts=dbn.UNDEF_TIMESTAMP,
        )
    )
    heartbeat = bytes(dbn.SystemMsg(ts_event=T0, msg="Heartbeat"))
    head = metadata(None, stype_in=None, mappings=[])
    path = write(tmp_path / "live.dbn", head + mapping + trade(1, instrument_id=90) + heartbeat)
    got = rows(DbnFile(path))
    assert [(row["instrument"], row["source"]) for row in got] == [("NVDA", "XNAS.ITCH")]


def test_send_times_at_the_end_of_records_are_passed_over(tmp_path: Path) -> None:
    records = []
    for n in range(3):
        record = bytearray(trade(n) + (T0 + n).to_bytes(8, "little"))
        record[0] = len(record) // 4
        records.append(bytes(record))
    head = metadata(dbn.Schema.TRADES, ts_out=True)
    got = rows(DbnFile(write(tmp_path / "t.dbn", head + b"".join(records))))
    assert [row["size"] for row in got] == [100 * 10**8, 101 * 10**8, 102 * 10**8]


def test_mbp1_is_the_top_of_the_book(tmp_path: Path) -> None:
    full = dbn.BidAskPair(bid_px=10**9, ask_px=2 * 10**9, bid_sz=5, ask_sz=6)
    one_sided = dbn.BidAskPair(bid_px=dbn.UNDEF_PRICE, ask_px=2 * 10**9, bid_sz=0, ask_sz=6)
    data = metadata(dbn.Schema.MBP_1) + quote(full) + quote(one_sided)
    got = rows(DbnFile(write(tmp_path / "q.dbn", data)))
    columns = ("bid_price", "bid_size", "ask_price", "ask_size")
    assert [tuple(row[c] for c in columns) for row in got] == [
        (10**9, 5 * 10**8, 2 * 10**9, 6 * 10**8),
        (None, None, 2 * 10**9, 6 * 10**8),
    ]
    assert got[0]["quality_flags"] == dbn.F_TOB | dbn.F_MAYBE_BAD_BOOK
    assert got[0]["venue"] == "GLBX"


@pytest.mark.parametrize(
    ("rtype", "interval_ns"),
    [(0x20, 10**9), (0x21, 60 * 10**9), (0x22, 3600 * 10**9), (0x23, 86_400 * 10**9), (0x11, None)],
)
def test_ohlcv_are_bars(tmp_path: Path, rtype: int, interval_ns: int | None) -> None:
    record = bytes(dbn.OHLCVMsg(rtype, 2, 32, T0, 1, 4, 0, 3, 1_000_000))
    path = write(tmp_path / "b.dbn", metadata(dbn.Schema.OHLCV_1S) + record)
    (row,) = rows(DbnFile(path))
    prices = tuple(row[name] for name in ("open", "high", "low", "close"))
    assert (prices, row["volume"], row["interval_ns"]) == ((1, 4, 0, 3), 10**14, interval_ns)


def test_a_volume_beyond_the_contract_is_refused(tmp_path: Path) -> None:
    record = bytes(dbn.OHLCVMsg(0x23, 2, 32, T0, 1, 1, 1, 1, 92_233_720_369))
    path = write(tmp_path / "b.dbn", metadata(dbn.Schema.OHLCV_1D) + record)
    with pytest.raises(SourceError, match="a size of 92233720369 does not fit"):
        rows(DbnFile(path))


def test_an_undefined_event_time_is_the_receive_time(tmp_path: Path) -> None:
    path = write(
        tmp_path / "t.dbn",
        metadata(dbn.Schema.TRADES) + trade(ts_event=dbn.UNDEF_TIMESTAMP, ts_recv=T0 + 5),
    )
    assert rows(DbnFile(path))[0]["ts_event"].value == T0 + 5
    path = write(
        tmp_path / "u.dbn",
        metadata(dbn.Schema.TRADES)
        + trade(ts_event=dbn.UNDEF_TIMESTAMP, ts_recv=dbn.UNDEF_TIMESTAMP),
    )
    with pytest.raises(SourceError, match="neither ts_event nor ts_recv"):
        rows(DbnFile(path))


def test_an_unknown_publisher_is_named_after_the_dataset(tmp_path: Path) -> None:
    path = write(tmp_path / "t.dbn", metadata(dbn.Schema.TRADES) + trade(publisher_id=60_000))
    assert rows(DbnFile(path))[0]["venue"] == "XNAS"


def test_a_second_file_or_pass_continues_the_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "t.dbn", metadata(dbn.Schema.TRADES) + trade(0) + trade(1))
    numbering = SourceNumbering()
    file = DbnFile(path, numbering=numbering)
    got = rows(file) + rows(file) + rows(DbnFile(path, numbering=numbering))
    assert [row["source_sequence"] for row in got] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "is no DBN file"),
        (b"a,b,c\n1,2,3\n", "is no DBN file"),
        (b"DBN\x63\x10\x00\x00\x00" + bytes(16), "version 99 cannot be read"),
        (metadata(dbn.Schema.TRADES)[:60], "cannot be read"),
        (metadata(dbn.Schema.TRADES) + trade()[:-8], "ends inside a record"),
        (metadata(dbn.Schema.TRADES) + b"\x0d" + trade()[1:] + bytes(4), "says 52 bytes"),
        (metadata(dbn.Schema.TRADES) + bytes(48), "says 0 bytes"),
        (metadata(dbn.Schema.MBO) + b"\x0e\xa0" + bytes(54), "type 0xa0 .schema mbo."),
    ],
)
def test_damaged_and_foreign_files_say_what_is_wrong(
    tmp_path: Path, data: bytes, match: str
) -> None:
    path = write(tmp_path / "bad.dbn", data)
    with pytest.raises(SourceError, match=match) as caught:
        rows(DbnFile(path))
    assert str(path) in str(caught.value)


def test_a_cut_zstd_file_is_an_error(tmp_path: Path) -> None:
    data = metadata(dbn.Schema.TRADES) + b"".join(trade(n * 7919) for n in range(5000))
    whole = write(tmp_path / "t.dbn.zst", data, zstd=True).read_bytes()
    path = tmp_path / "cut.dbn.zst"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="cut"):
        rows(DbnFile(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no\.dbn: cannot be opened"):
        DbnFile(tmp_path / "no.dbn")
