"""Synthetic ticks: seeded quotes and trades for load and tests. Nothing here is market data.

How often an instrument ticks follows Zipf's law over N instruments; its price walks at random in
cents and never falls to zero; quotes lie around it and trades at one side of it. Instruments are
listed in three regions, and every event happens on one of its region's venues. The source name
is always `synthetic` and instruments are called `SYN00000` (the most active) and so on.

The same configuration gives the same events (with one version of NumPy). Without `holes` and
`repeats`, the source sequences of an instrument are 1, 2, 3 … in the order yielded, across
kinds; without `disorder`, `ts_event` never falls. A batch is a run of events of one kind.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from marketdata.schemas import INGEST_SCHEMAS
from marketdata.sources.batches import MAX_BATCH_ROWS
from marketdata.sources.errors import SourceError

SOURCE: Final = "synthetic"

VENUES_OF_REGION: Final = {
    "us": ("XNAS", "XNYS", "ARCX", "BATS"),
    "eu": ("XETR", "XPAR", "XLON", "XAMS"),
    "apac": ("XTKS", "XHKG", "XSES", "XASX"),
}
"""Region -> the four venues its instruments trade on."""

DEFAULT_START_NS: Final = 1_704_205_800_000_000_000
"""2024-01-02 14:30 UTC."""

_TICK: Final = 10_000_000  # one cent in units of 1e-9
_SHARE: Final = 100_000_000  # one share in units of 1e-8
_GRID_BITS: Final = 20
_MAX_DELAY_ROWS: Final = 64

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SyntheticConfig:
    """What to generate.

    Attributes:
        events: distinct events to generate; repeats come on top. None never ends.
        seed: the same seed gives the same events.
        instruments: 1 to 32768.
        zipf: exponent of the activity; 0 makes all instruments equally active.
        rate: events a second of event time, on average.
        trade_share: share of batches that hold trades, the others hold quotes.
        batch_rows: events in a batch, before repeats.
        start_ns: time before the first event.
        disorder: share of events that come late, by up to 64 places of their batch.
        holes: share of events before which one source sequence is left out.
        repeats: share of events that are sent twice, one right after the other.
    """

    events: int | None
    seed: int = 0
    instruments: int = 1000
    zipf: float = 1.0
    rate: float = 100_000.0
    trade_share: float = 0.25
    batch_rows: int = 8192
    start_ns: int = DEFAULT_START_NS
    disorder: float = 0.0
    holes: float = 0.0
    repeats: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("instruments", 1, MAX_BATCH_ROWS),
            ("batch_rows", 1, 1 << 20),
            ("events", 0, 1 << 62),
            ("seed", 0, 1 << 62),
            ("start_ns", 0, 1 << 62),
            ("rate", 1e-3, 1e9),
            ("zipf", 0.0, 10.0),
            ("trade_share", 0.0, 1.0),
            ("disorder", 0.0, 1.0),
            ("holes", 0.0, 1.0),
            ("repeats", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SourceError(f"synthetic: {name} is {value}; it must lie within {low}…{high}")


@dataclass(slots=True)
class SyntheticCounts:
    """What has been yielded so far, as ground truth for checkers.

    `events` counts rows, so `events - repeats` are distinct; `holes` counts source sequences
    left out, `late` the events that were moved behind later ones.
    """

    events: int = 0
    holes: int = 0
    repeats: int = 0
    late: int = 0


class SyntheticTicks:
    """An iterable of synthetic `quote` and `trade` batches; every iteration starts anew.

    >>> ticks = SyntheticTicks(SyntheticConfig(events=10_000, seed=7))
    >>> sum(batch.num_rows for batch in ticks)
    10000

    Attributes:
        counts: what the latest iteration has yielded so far.
    """

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.counts = SyntheticCounts()
        self._names = pa.array([f"SYN{i:05d}" for i in range(config.instruments)])
        self._regions = pa.array(list(VENUES_OF_REGION))
        self._venues = pa.array([v for venues in VENUES_OF_REGION.values() for v in venues])
        self._grid = _activity_grid(config.instruments, config.zipf)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self.counts = SyntheticCounts()
        return self._generate(_Walk(self.config), self.counts)

    def _generate(self, walk: "_Walk", counts: SyntheticCounts) -> Iterator[pa.RecordBatch]:
        config, random = self.config, walk.random
        left = config.events
        while left is None or left > 0:
            rows = config.batch_rows if left is None else min(left, config.batch_rows)
            kind = "trade" if random.random() < config.trade_share else "quote"
            bits = random.integers(0, 1 << 64, rows, dtype=np.uint64)
            codes = self._grid[_bits(bits, 0, _GRID_BITS)]
            columns = walk.advance(bits, codes, counts)
            columns.update(_trades(bits, columns) if kind == "trade" else _quotes(bits, columns))
            columns = self._disturb(columns, random, counts)
            batch = self._batch(kind, columns)
            counts.events += batch.num_rows
            left = left - rows if left is not None else None
            yield batch

    def _disturb(
        self, columns: dict[str, Ints], random: np.random.Generator, counts: SyntheticCounts
    ) -> dict[str, Ints]:
        rows = len(columns["instrument"])
        config = self.config
        if config.disorder:
            late = random.random(rows) < config.disorder
            delay = np.where(late, random.integers(1, _MAX_DELAY_ROWS + 1, rows) + 0.5, 0)
            order = np.argsort(np.arange(rows) + delay, kind="stable")
            columns = {name: values[order] for name, values in columns.items()}
            highest = np.maximum.accumulate(columns["source_order"])
            counts.late += int(np.count_nonzero(columns["source_order"] < highest))
        if config.repeats:
            twice = random.random(rows) < config.repeats
            counts.repeats += int(np.count_nonzero(twice))
            columns = {name: np.repeat(values, 1 + twice) for name, values in columns.items()}
        return columns

    def _batch(self, kind: str, columns: dict[str, Ints]) -> pa.RecordBatch:
        rows = len(columns["instrument"])
        codes = columns["instrument"].astype(np.int16)
        region = (codes % np.int16(len(self._regions))).astype(np.int16)
        venue = region * np.int16(4) + columns["venue"].astype(np.int16)
        symbols = {
            "instrument": (codes, self._names),
            "venue": (venue, self._venues),
            "region": (region, self._regions),
            "source": (np.zeros(rows, dtype=np.int16), pa.array([SOURCE])),
        }
        if "side" in columns:
            symbols["side"] = (columns["side"].astype(np.int16), pa.array(["buy", "sell"]))
        schema = INGEST_SCHEMAS[kind]
        arrays = []
        for field in schema:
            if field.name in symbols:
                indices, values = symbols[field.name]
                arrays.append(pa.DictionaryArray.from_arrays(pa.array(indices), values))
            elif field.name in ("ts_event", "ts_publish"):
                arrays.append(pa.array(columns["ts_event"]).view(field.type))
            elif field.name in columns:
                numbers = columns[field.name].astype(field.type.to_pandas_dtype(), copy=False)
                arrays.append(pa.array(numbers))
            else:
                arrays.append(pa.nulls(rows, field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _Walk:
    """The state between batches: clock, prices and numbers of every instrument."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.random = np.random.Generator(np.random.PCG64(config.seed))
        self._holes = config.holes
        self._now_ns = config.start_ns
        # Gaps are uniform over 0 … twice the mean, in 16 bits.
        self._gap = max(1, round(2e9 / config.rate))
        self._ticks = self.random.integers(2_000, 50_000, config.instruments)
        self._numbers = np.zeros(config.instruments, dtype=np.int64)

    def advance(
        self, bits: npt.NDArray[np.uint64], codes: npt.NDArray[np.uint16], counts: SyntheticCounts
    ) -> dict[str, Ints]:
        """Times, numbers and price ticks of the next events of the instruments `codes`."""
        rows = len(codes)
        gaps = (_bits(bits, 20, 16) * self._gap) >> 16
        ts_event = self._now_ns + np.cumsum(gaps)
        self._now_ns = int(ts_event[-1])

        order = np.argsort(codes, kind="stable")
        per_code = np.bincount(codes, minlength=len(self._ticks))
        present = np.flatnonzero(per_code)
        sizes = per_code[present]
        starts = np.cumsum(sizes) - sizes

        steps = _bits(bits, 36, 2)[order]
        steps = (steps == 3).astype(np.int64) - (steps == 0)
        ticks = _running(steps, starts, sizes, self._ticks, present)
        if self._holes:
            skipped = (self.random.random(rows) < self._holes).astype(np.int64)
            counts.holes += int(skipped.sum())
            numbers = _running(1 + skipped, starts, sizes, self._numbers, present)
        else:
            numbers = np.arange(1, rows + 1) + np.repeat(self._numbers[present] - starts, sizes)
            self._numbers[present] += sizes
        in_order = {"ticks": np.abs(ticks) + 4, "source_sequence": numbers}
        columns = {name: np.empty(rows, dtype=np.int64) for name in in_order}
        for name, values in in_order.items():
            columns[name][order] = values
        columns |= {
            "instrument": codes.astype(np.int64),
            "venue": _bits(bits, 38, 2),
            "ts_event": ts_event,
            "source_order": np.arange(rows),
        }
        return columns


def _trades(bits: npt.NDArray[np.uint64], columns: dict[str, Ints]) -> dict[str, Ints]:
    side = _bits(bits, 40, 1)
    return {
        "price": (columns["ticks"] - side) * _TICK,
        "size": (_bits(bits, 41, 8) + 1) * _SHARE,
        "side": side,
    }


def _quotes(bits: npt.NDArray[np.uint64], columns: dict[str, Ints]) -> dict[str, Ints]:
    bid = columns["ticks"] - 1 - _bits(bits, 40, 1)
    return {
        "bid_price": bid * _TICK,
        "bid_size": (_bits(bits, 41, 8) + 1) * (100 * _SHARE),
        "ask_price": (bid + 1 + _bits(bits, 57, 2)) * _TICK,
        "ask_size": (_bits(bits, 49, 8) + 1) * (100 * _SHARE),
    }


def _bits(bits: npt.NDArray[np.uint64], first: int, count: int) -> Ints:
    return ((bits >> np.uint64(first)) & np.uint64((1 << count) - 1)).view(np.int64)


def _running(steps: Ints, starts: Ints, sizes: Ints, state: Ints, present: Ints) -> Ints:
    """Running sums within groups, each from its state; `state` moves on to the last sums."""
    sums = np.cumsum(steps)
    before = sums[starts] - steps[starts]
    sums += np.repeat(state[present] - before, sizes)
    state[present] = sums[starts + sizes - 1]
    return sums


def _activity_grid(instruments: int, exponent: float) -> npt.NDArray[np.uint16]:
    """A table that turns uniform random indices into instrument codes of Zipf's frequencies."""
    weights = np.arange(1, instruments + 1, dtype=np.float64) ** -exponent
    edges = np.cumsum(weights) / weights.sum()
    points = (np.arange(1 << _GRID_BITS) + 0.5) / (1 << _GRID_BITS)
    return np.minimum(np.searchsorted(edges, points), instruments - 1).astype(np.uint16)
