"""Arrays of DBN records as columns of the contract: symbols, venues, times, prices, sizes.

Pure but for what `databento-dbn` knows of publishers. Works on the structured arrays that
`marketdata.sources.dbn` maps from a file.
"""

import datetime as dt
import re
from functools import cache
from typing import Any, Final, TypeAlias

import databento_dbn
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.sources.batches import Column

DAY_NS: Final = 86_400_000_000_000

_SHARE: Final = 100_000_000
_MAX_SHARES: Final = (2**63 - 1) // _SHARE
_UNDEF_SIZE: Final = 2**32 - 1
_UNDEF_VOLUME: Final = 2**64 - 1
_INTERVAL_NS_OF_RTYPE: Final = {
    0x20: 1_000_000_000,
    0x21: 60_000_000_000,
    0x22: 3_600_000_000_000,
    0x23: DAY_NS,
    0x24: DAY_NS,
}

Records: TypeAlias = npt.NDArray[np.void]


class RecordError(Exception):
    """Records that cannot be turned into events; the text says which and what to do."""


class SymbolTable:
    """Symbols of instrument ids by UTC day."""

    def __init__(self, metadata: databento_dbn.Metadata, unmapped_ids: bool) -> None:
        self._unmapped_ids = unmapped_ids
        self._live: dict[int, str] = {}
        by_id = str(metadata.stype_in) == "instrument_id"
        rows = []
        for symbol, intervals in metadata.mappings.items():
            for interval in intervals:
                number, name = (
                    (symbol, interval["symbol"]) if by_id else (interval["symbol"], symbol)
                )
                if number.isdigit():
                    days = (_day(interval["start_date"]), _day(interval["end_date"]))
                    rows.append((int(number), *days, name))
        rows.sort()
        self._keys = np.array([_key(r[0], r[1]) for r in rows], dtype=np.int64)
        self._ends = np.array([_key(r[0], r[2]) for r in rows], dtype=np.int64)
        self._names = [r[3] for r in rows]

    def map_live(self, instrument_id: int, symbol: str) -> None:
        """A mapping record of a live stream: valid from here on, before the metadata's."""
        self._live[instrument_id] = symbol

    def symbols(
        self, ids: npt.NDArray[np.uint32], times: npt.NDArray[np.int64]
    ) -> pa.DictionaryArray:
        """The instrument column of records with these ids and event times.

        Raises:
            RecordError: an id has no symbol on that day.
        """
        keys = _key(ids.astype(np.int64), times // DAY_NS)
        distinct, codes = np.unique(keys, return_inverse=True)
        names = pa.array([self._name(int(key)) for key in distinct]).dictionary_encode()
        indices = names.indices.to_numpy()[codes].astype(np.int16)
        return pa.DictionaryArray.from_arrays(pa.array(indices), names.dictionary)

    def _name(self, key: int) -> str:
        number, day = key >> 24, key & 0xFFFFFF
        if number in self._live:
            return self._live[number]
        row = int(np.searchsorted(self._keys, key, side="right")) - 1
        if row >= 0 and self._keys[row] >> 24 == number and key < self._ends[row]:
            return self._names[row]
        if self._unmapped_ids:
            return str(number)
        date = dt.date(1970, 1, 1) + dt.timedelta(days=day)
        raise RecordError(
            f"instrument id {number} has no symbol on {date} in the metadata; fetch the file with"
            " symbology, or name such instruments by their ids (--unmapped-ids)"
        )


def _key(number: Any, day: Any) -> Any:
    return (number << 24) | day


def _day(date: dt.date) -> int:
    return min(max((date - dt.date(1970, 1, 1)).days, 0), 0xFFFFFF)


def times_ns(records: Records) -> npt.NDArray[np.int64]:
    """`ts_event`, or `ts_recv` where the venue gave none."""
    times = records["ts_event"]
    undefined = times == databento_dbn.UNDEF_TIMESTAMP
    if undefined.any() and "ts_recv" in (records.dtype.names or ()):
        times = np.where(undefined, records["ts_recv"], times)
    if (times > np.uint64(2**63 - 1)).any():
        raise RecordError("a record has neither ts_event nor ts_recv; the file is damaged")
    return times.astype(np.int64)


def trade_columns(records: Records) -> dict[str, Column]:
    """The columns of a `trade` beyond the envelope."""
    buys, sells = records["side"] == b"B", records["side"] == b"A"
    indices = pa.array(buys.astype(np.int16), mask=~(buys | sells))
    return {
        "price": _price(records["price"]),
        "size": _size(records["size"], _UNDEF_SIZE),
        # The side that initiated: an ask that hits the book is a sale.
        "side": pa.DictionaryArray.from_arrays(indices, pa.array(["sell", "buy"])),
    }


def quote_columns(records: Records) -> dict[str, Column]:
    """The columns of a `quote` beyond the envelope: the first level of the book."""
    columns: dict[str, Column] = {}
    for side in ("bid", "ask"):
        price = records[f"{side}_px_00"]
        undefined = price == databento_dbn.UNDEF_PRICE
        columns[f"{side}_price"] = _price(price)
        # A side without a price is empty: its size says nothing.
        columns[f"{side}_size"] = _size(records[f"{side}_sz_00"], _UNDEF_SIZE, undefined)
    return columns


def bar_columns(records: Records) -> dict[str, Column]:
    """The columns of a `bar` beyond the envelope."""
    interval_ns = _INTERVAL_NS_OF_RTYPE.get(int(records["rtype"][0]))
    columns: dict[str, Column] = {
        name: _price(records[name]) for name in ("open", "high", "low", "close")
    }
    columns["volume"] = _size(records["volume"], _UNDEF_VOLUME)
    columns["interval_ns"] = pa.repeat(pa.scalar(interval_ns, pa.int64()), len(records))
    return columns


def _price(values: npt.NDArray[np.int64]) -> pa.Array:
    return pa.array(values, mask=values == databento_dbn.UNDEF_PRICE)


def _size(
    values: npt.NDArray[Any], undefined: int, empty: npt.NDArray[np.bool_] | None = None
) -> pa.Array:
    null = values == np.uint64(undefined)
    if empty is not None:
        null |= empty
    too_large = (values > np.uint64(_MAX_SHARES)) & ~null
    if too_large.any():
        raise RecordError(
            f"a size of {values[too_large][0]} does not fit the contract's units of 1e-8"
            f" (at most {_MAX_SHARES})"
        )
    return pa.array(np.where(null, 0, values).astype(np.int64) * _SHARE, mask=null)


def venues(publisher_ids: npt.NDArray[np.uint16], dataset: str) -> pa.DictionaryArray:
    """The venue column of records of these publishers."""
    distinct, codes = np.unique(publisher_ids, return_inverse=True)
    names = pa.array([_venue(int(number), dataset) for number in distinct]).dictionary_encode()
    indices = names.indices.to_numpy()[codes].astype(np.int16)
    return pa.DictionaryArray.from_arrays(pa.array(indices), names.dictionary)


@cache
def _venue(publisher_id: int, dataset: str) -> str:
    """The MIC of a publisher; of an unknown one, the first part of the dataset's name.

    The package knows publishers by `DATASET.FEED.VENUE` but shows the name only in the `repr`
    of a record.
    """
    probe = databento_dbn.OHLCVMsg(0x20, publisher_id, 0, 0, 0, 0, 0, 0, 0)
    named = re.search(r"publisher_id=[\w.]+\.(\w{4}) \(", repr(probe))
    return named[1] if named else (dataset.partition(".")[0] or "XXXX")
